/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What surrounds a mount: the mountpoint before it, its traces in the system while it
 * lasts, and waiting for its end. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Unmounts what an earlier qcowfs has left on @path when it was killed, with a message.
 * False with @error set where a dead mount stays. */
bool mountpoint_remove_stale(const char *path, GError **error);

/* Tells in *@is_file_out whether @path is a regular file. False with @error set where
 * nothing can be mounted there. */
bool mountpoint_prepare(const char *path, bool *is_file_out, GError **error);

/* Whether @path is "/dev/fd/N": somebody else has mounted already, with that descriptor.
 */
bool mountpoint_is_descriptor(const char *path);

/* The absolute path of @path that the kernel will show, or NULL: also for a descriptor,
 * whose place is not known. Free with g_free. */
char *mountpoint_absolute(const char *path);

/* The device, "MAJOR:MINOR", of the topmost mount at @absolute_path, or NULL if there is
 * none. Free with g_free. */
char *mountpoint_device(const char *absolute_path);

/* Takes the topmost mount at @absolute_path out of the tree of files, also when it is in
 * use. False where that failed. */
bool mountpoint_unmount(const char *absolute_path);

/* The directories that a mark may lie in, the best one first; they may not be there. Free
 * with g_strfreev. */
GStrv mountpoint_mark_dirs(void);

/* Marks that this process serves @absolute_path (may be NULL), until it ends. Returns a
 * descriptor for mountpoint_unmark, or -1 where it cannot be marked, which only
 * mountpoint_wait notices. */
int mountpoint_mark(const char *absolute_path);

/* Takes the mark away, when all is closed; accepts -1. */
void mountpoint_unmark(const char *absolute_path, int mark_fd);

/* Returns when no process serves @path any more. False with @error set. */
bool mountpoint_wait(const char *path, GError **error);
