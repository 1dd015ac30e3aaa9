/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A process outside the sandbox that unmounts at the end: a confined server can neither
 * call umount(2) nor start fusermount3, which has the set-user-ID bit. Nor can it open a
 * socket after a restart of the system's log. The process accepts these two orders and
 * nothing else. */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef struct Unmounter Unmounter;

/* Starts the process for the present mount at @absolute_path (copied); NULL: for the log
 * alone. Call before any thread is made. The process ends with this one, however that
 * ends. NULL with @error set. */
Unmounter *unmounter_start(const char *absolute_path, GError **error);

/* Detaches the mount from the tree, even while in use, if it is still the topmost one.
 * Once. False on failure. */
bool unmounter_unmount(Unmounter *unmounter);

/* A new socket, connected to the system's log: a LogConnect for the Unmounter @user. -1
 * if there is no log, or while unmounter_unmount runs. Thread-safe. */
int unmounter_connect_log(void *user);

/* Ends the process; accepts NULL. */
void unmounter_end(Unmounter *unmounter);
