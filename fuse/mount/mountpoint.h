/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Everything around a mount: preparing the mountpoint, the mount's traces in the system,
 * and waiting for its end. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Unmounts the mount that a killed qcowfs left on @path, with a message. False with
 * @error set if a dead mount stays. */
bool mountpoint_remove_stale(const char *path, GError **error);

/* Checks for two slips before any image is opened: all of @images (char *) are mounted on
 * @path already, or the mountpoint was given first. False with @error set. */
bool mountpoint_check_first(const char *path, const GPtrArray *images, GError **error);

/* Stores in *@is_file_out whether @path is a regular file. False with @error set if
 * nothing can be mounted there. */
bool mountpoint_prepare(const char *path, bool *is_file_out, GError **error);

/* Whether @path is "/dev/fd/N": another program has mounted already, through that
 * descriptor. */
bool mountpoint_is_descriptor(const char *path);

/* The absolute path of @path as the kernel will show it; NULL if unknown, as for a
 * descriptor. Free with g_free. */
char *mountpoint_absolute(const char *path);

/* The device, "MAJOR:MINOR", of the topmost mount at @absolute_path, or NULL if there is
 * none. Free with g_free. */
char *mountpoint_device(const char *absolute_path);

/* Detaches the topmost mount at @absolute_path from the tree, even while in use. False on
 * failure. */
bool mountpoint_unmount(const char *absolute_path);

/* The possible directories of marks, best first; they may be missing. Free with
 * g_strfreev. */
GStrv mountpoint_mark_dirs(void);

/* Marks @absolute_path (may be NULL) as served by this process until it ends. Returns a
 * descriptor for mountpoint_unmark, or -1 if no mark could be made, which affects only
 * mountpoint_wait. */
int mountpoint_mark(const char *absolute_path);

/* Stores the device of the mount at @absolute_path (may be NULL) in the mark, so that a
 * waiting process finds it in other mount namespaces; accepts -1. */
void mountpoint_mark_mounted(const char *absolute_path, int mark_fd);

/* Removes the mark, when everything is closed; accepts -1. */
void mountpoint_unmark(const char *absolute_path, int mark_fd);

/* Returns when no process of this user or root, for root of any user, serves @path any
 * more. Says where the mount still is if it has left @path and not ended. False with
 * @error set: there is no such path. */
bool mountpoint_wait(const char *path, GError **error);
