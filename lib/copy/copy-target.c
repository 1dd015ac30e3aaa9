/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target of a copy: a regular file made sparse, a block device, or a stream. */
#include "copy/copy-target.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/errors.h"
#include "base/zeros.h"
#include "copy/copy-zeros.h"
#include "storage/file-lock.h"
#include "storage/file.h"

bool
copy_target_take(CopyTarget *target, int fd_in, const char *path, const QimgImage *image,
                 GError **error)
{
    qimg_autofd fd = fd_in;
    struct stat status;

    if (fstat(fd, &status) < 0) {
        qimg_set_error_errno(error, errno, NULL, "cannot read its status");
        return false;
    }
    if (qimg_image_has_file(image, &status)) { /* I3 */
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is the image itself or one of its chain (name another file)");
        return false;
    }
    if (qimg_file_lock(fd, QIMG_LOCK_RW_PERM, QIMG_LOCK_RW_UNSHARED, error) ==
        QIMG_LOCK_CONFLICT)
        return false;
    target->is_device = S_ISBLK(status.st_mode);
    target->fd = fd;
    target->storage = qimg_file_storage_new(qimg_steal_fd(&fd), path, true, error);
    return target->storage != NULL;
}

bool
copy_target_prepare(CopyTarget *target, uint64_t size_bytes, uint64_t present_bytes,
                    GError **error)
{
    QimgErrno err;

    if (target->is_device)
        return true;
    err = qimg_storage_set_size(target->storage, present_bytes);
    if (!err)
        err = qimg_storage_set_size(target->storage, size_bytes);
    if (err)
        qimg_set_error_errno(
            error, -err,
            err == -EFBIG ? "its file system has no files of that size" : NULL,
            "cannot get the size of %" G_GUINT64_FORMAT " bytes", (guint64)size_bytes);
    return err == 0;
}

QimgErrno
copy_target_write(CopyTarget *target, uint64_t guest_offset, const uint8_t *buffer,
                  size_t n_bytes)
{
    size_t start = 0, end = 0;
    QimgErrno err = 0;

    if (target->keeps_zeros || target->is_device)
        return qimg_storage_write(target->storage, QIMG_IO_DATA, qimg_host(guest_offset),
                                  buffer, n_bytes);
    while (!err && copy_find_data(buffer, n_bytes, &start, &end)) {
        err = qimg_storage_write(target->storage, QIMG_IO_DATA,
                                 qimg_host(guest_offset + start), buffer + start,
                                 end - start);
        start = end;
    }
    return err;
}

static QimgErrno
target_write_zeros(CopyTarget *target, uint64_t guest_offset, uint64_t n_bytes)
{
    QimgErrno err = 0;

    while (!err && n_bytes > 0) {
        size_t n = qimg_min_u64(n_bytes, COPY_ZEROS_BYTES);

        err = qimg_storage_write(target->storage, QIMG_IO_DATA, qimg_host(guest_offset),
                                 qimg_zeros, n);
        guest_offset += n;
        n_bytes -= n;
    }
    return err;
}

QimgErrno
copy_target_write_hole(CopyTarget *target, uint64_t guest_offset, uint64_t n_bytes)
{
    uint64_t whole_bytes = qimg_align_down(n_bytes, COPY_GRANULE_BYTES);

    if (target->keeps_zeros)
        return target_write_zeros(target, guest_offset, n_bytes);
    if (!target->is_device)
        return 0; /* I2 */
    /* A device can zero only whole sectors, if at all. */
    if (whole_bytes > 0 && qimg_storage_zero(target->storage, QIMG_IO_DATA,
                                             qimg_host(guest_offset), whole_bytes) != 0)
        whole_bytes = 0;
    return target_write_zeros(target, guest_offset + whole_bytes, n_bytes - whole_bytes);
}

QimgErrno
copy_target_append(CopyTarget *target, const uint8_t *buffer, uint64_t n_bytes,
                   const _Atomic bool *stop)
{
    while (n_bytes > 0) {
        size_t n = buffer ? n_bytes : qimg_min_u64(n_bytes, COPY_ZEROS_BYTES);
        ssize_t put = write(target->stream_fd, buffer ? buffer : qimg_zeros, n);

        if (put < 0 && errno != EINTR)
            return -errno;
        /* The signal that stops the copy has interrupted the call. */
        if (put < 0 && atomic_load_explicit(stop, memory_order_relaxed))
            return -ECANCELED;
        if (put <= 0)
            continue;
        if (buffer)
            buffer += put;
        n_bytes -= (uint64_t)put;
    }
    return 0;
}

void
copy_target_close(CopyTarget *target)
{
    g_clear_pointer(&target->storage, qimg_storage_close);
}
