/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Host files and block devices as storage. */
#pragma once

#include <glib.h>

#include "storage/storage.h"

/* Reopens the file of the O_PATH descriptor @path_fd for reading, with @for_writing also
 * for writing, without changing its access time if permitted. Refuses anything but a
 * regular file (with @allow_device also a block device) before opening it, so that a FIFO
 * cannot hang us and a device has no side effect. Returns a descriptor, or -1 with @error
 * set. */
int qimg_file_reopen(int path_fd, bool allow_device, bool for_writing, GError **error);

/* Makes a storage of @fd, which it owns from then on (also on failure). @path is copied
 * and names the file in messages; @fd must be open for writing if @is_writable. Errors:
 * FAILED if its status cannot be read. */
QimgStorage *qimg_file_storage_new(int fd, const char *path, bool is_writable,
                                   GError **error);

/* From now on, data and compressed data of @storage bypass the page cache; tables and
 * everything else stay cached. Call before the storage is used. Errors: -EINVAL if the
 * file system does not support it, others of open: the storage is unchanged. */
QimgErrno qimg_file_storage_go_direct(QimgStorage *storage) QIMG_MUST_CHECK;

/* Makes a storage for reading of @old's open file; @old must be of this kind. NULL with
 * @error set: FAILED. */
QimgStorage *qimg_file_storage_share(QimgStorage *old, GError **error);

/* The descriptor of a storage of this kind, which keeps owning it: for locks. */
int qimg_file_storage_get_fd(const QimgStorage *storage);

/* The file is locked by this storage (storage/file-lock.h): its close ends the locks at
 * once. Else they end with the last reference to the open file, and another process may
 * have one: a child before it closes its copies, or a program that lists the open files
 * of all processes. No effect once the storage is shared. */
void qimg_file_storage_unlock_at_close(QimgStorage *storage);

/* Disables syncs of a writable storage; call before it is used. For a file that cannot be
 * opened any more after the end of the process. */
void qimg_file_storage_skip_syncs(QimgStorage *storage);
