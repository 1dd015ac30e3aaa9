/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A process that stays outside of the sandbox, to unmount in the end: a confined server
 * can neither call umount(2) nor start fusermount3, which has the set-user-ID bit. Nor
 * can it open a socket when the system's log was started anew. It can be told to do these
 * two things and nothing else. */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef struct Unmounter Unmounter;

/* Starts the process, for what is mounted at @absolute_path (copied) now; NULL: it is for
 * the log alone. Before any thread is made. It ends with this one, whichever way that
 * ends. NULL with @error set. */
Unmounter *unmounter_start(const char *absolute_path, GError **error);

/* Takes the mount out of the tree of files, also when it is in use, where it is still
 * the topmost one there. Once. False where that failed. */
bool unmounter_unmount(Unmounter *unmounter);

/* A new socket, connected to the system's log: a LogConnect for the Unmounter @user. -1
 * where there is no log, and while unmounter_unmount is at work. Thread-safe. */
int unmounter_connect_log(void *user);

/* Ends the process; accepts NULL. */
void unmounter_end(Unmounter *unmounter);
