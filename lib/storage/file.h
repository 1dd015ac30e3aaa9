/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Host files and block devices as storage. */
#pragma once

#include <glib.h>

#include "storage/storage.h"

/* Opens the file that the O_PATH descriptor @path_fd refers to for reading, or
 * @for_writing, too, without changing its access time where that is allowed. Anything but
 * a regular file (or, when @allow_device, a block device) is refused before it is opened,
 * so that a FIFO cannot hang us and a device has no side effect. Returns a descriptor or
 * -1 with @error set. */
int qimg_file_reopen(int path_fd, bool allow_device, bool for_writing, GError **error);

/* Makes a storage of @fd, which it owns from then on (also on failure). @path is copied
 * and is how messages name the file; @fd must be open for writing where @is_writable.
 * Errors: FAILED when its status cannot be read. */
QimgStorage *qimg_file_storage_new(int fd, const char *path, bool is_writable,
                                   GError **error);

/* Lets data and compressed data of @storage pass by the page cache from now on; tables
 * and all else are cached as before. Called before the storage is used. Errors: -EINVAL
 * where the file system cannot do that, others of open: the storage is as it was. */
QimgErrno qimg_file_storage_go_direct(QimgStorage *storage) QIMG_MUST_CHECK;

/* Makes a storage for reading of what @old, one of this kind, has open. NULL with @error
 * set: FAILED. */
QimgStorage *qimg_file_storage_share(const QimgStorage *old, GError **error);

/* The descriptor inside a storage of this kind, which keeps owning it: for locks. */
int qimg_file_storage_get_fd(const QimgStorage *storage);

/* Lets the syncs of a writable storage do nothing, before it is used: for a file that
 * nobody can open any more when the process has ended. */
void qimg_file_storage_skip_syncs(QimgStorage *storage);
