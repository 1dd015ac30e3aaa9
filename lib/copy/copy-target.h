/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing to the target of a copy. */
#pragma once

#include <sys/stat.h>

#include "qimg.h"
#include "storage/storage.h"

typedef struct {
    QimgStorage *storage; /* NULL: a stream */
    int fd;               /* of the storage, which owns it */
    int stream_fd;
    bool is_device;
    bool keeps_zeros; /* writes zeros like data */
} CopyTarget;

/* Takes @fd (also on failure) as the target, and locks it; changes nothing in it. @path
 * is for messages. */
bool copy_target_take(CopyTarget *target, int fd, const char *path,
                      const QimgImage *image, GError **error);
/* Cuts a regular file to @present_bytes (I2) and gives it the disk's size. */
bool copy_target_prepare(CopyTarget *target, uint64_t size_bytes, uint64_t present_bytes,
                         GError **error);
/* Writes @n_bytes, except granules of zeros where the target has zeros already. Any
 * thread. */
QimgErrno copy_target_write(CopyTarget *target, uint64_t guest_offset,
                            const uint8_t *buffer, size_t n_bytes) QIMG_MUST_CHECK;
/* Makes the range zeros. Any thread. */
QimgErrno copy_target_write_hole(CopyTarget *target, uint64_t guest_offset,
                                 uint64_t n_bytes) QIMG_MUST_CHECK;
/* Appends @n_bytes (zeros if @buffer is NULL) to the stream. -ECANCELED once *@stop is
 * set. */
QimgErrno copy_target_append(CopyTarget *target, const uint8_t *buffer, uint64_t n_bytes,
                             const _Atomic bool *stop) QIMG_MUST_CHECK;
void copy_target_close(CopyTarget *target);
