/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads a target back, and compares it. */
#include "copy/copy-compare.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "copy/copy-zeros.h"
#include "storage/file.h"

void
copy_reader_open(CopyReader *reader, QimgStorage *target, bool from_medium)
{
    g_autofree char *link = NULL;

    *reader = (CopyReader){
        .target = target, .fd = qimg_file_storage_get_fd(target), .direct_fd = -1};
    if (!from_medium)
        return;
    /* Only pages already on the medium are dropped from the page cache: the caller has
     * synced them. */
    posix_fadvise(reader->fd, 0, 0, POSIX_FADV_DONTNEED);
    link = g_strdup_printf("/proc/self/fd/%d", reader->fd);
    reader->direct_fd = open(link, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOCTTY);
}

void
copy_reader_close(CopyReader *reader)
{
    if (reader->direct_fd >= 0)
        close(reader->direct_fd);
    reader->direct_fd = -1;
}

/* Reads up to @n_bytes, bypassing the page cache if possible; @buffer has room for whole
 * granules. */
static ssize_t
read_some(const CopyReader *reader, uint64_t offset, uint8_t *buffer, size_t n_bytes)
{
    ssize_t got = -1;

    if (reader->direct_fd >= 0 && offset % COPY_GRANULE_BYTES == 0)
        got = pread(reader->direct_fd, buffer,
                    qimg_align_down(n_bytes + COPY_GRANULE_BYTES - 1, COPY_GRANULE_BYTES),
                    (off_t)offset);
    if (got < 0) /* blocks larger than ours, or a short end of a device */
        got = pread(reader->fd, buffer, n_bytes, (off_t)offset);
    return got;
}

/* *@n_read_out is less than @n_bytes only at the target's end. */
static QimgErrno
read_back(const CopyReader *reader, uint64_t offset, uint8_t *buffer, size_t n_bytes,
          size_t *n_read_out)
{
    size_t done = 0;

    while (done < n_bytes) {
        ssize_t got = read_some(reader, offset + done, buffer + done, n_bytes - done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        done += qimg_min_u64((uint64_t)got, n_bytes - done);
    }
    *n_read_out = done;
    return 0;
}

QimgErrno
copy_reader_compare(const CopyReader *reader, uint64_t offset, const uint8_t *wanted,
                    size_t n_bytes, uint8_t *buffer, uint64_t *different_out)
{
    size_t n_read = 0, same;
    QimgErrno err = read_back(reader, offset, buffer, n_bytes, &n_read);

    if (err)
        return err;
    same = qimg_find_different(buffer, wanted, n_read);
    if (same < n_bytes)
        *different_out = offset + same;
    return 0;
}

QimgErrno
copy_reader_check_zeros(const CopyReader *reader, uint64_t offset, uint64_t n_bytes,
                        uint8_t *buffer, size_t buffer_bytes, const _Atomic bool *stop,
                        uint64_t *different_out)
{
    uint64_t end = offset + n_bytes;

    while (offset < end && *different_out == COPY_NO_DIFFERENCE) {
        bool is_data = true;
        uint64_t extent_end = end;
        size_t n;
        QimgErrno err;

        if (atomic_load_explicit(stop, memory_order_relaxed))
            return -ECANCELED;
        err = qimg_storage_find_extent(reader->target, qimg_host(offset), &is_data,
                                       &extent_end);
        if (err)
            return err;
        extent_end = qimg_min_u64(extent_end, end);
        if (!is_data) {
            offset = extent_end;
            continue;
        }
        for (; offset < extent_end && *different_out == COPY_NO_DIFFERENCE; offset += n) {
            size_t start = 0, data_end = 0, n_read = 0;

            if (atomic_load_explicit(stop, memory_order_relaxed))
                return -ECANCELED;
            n = qimg_min_u64(buffer_bytes, extent_end - offset);
            err = read_back(reader, offset, buffer, n, &n_read);
            if (err)
                return err;
            if (copy_find_data(buffer, n_read, &start, &data_end))
                *different_out = offset + start;
            else if (n_read < n)
                *different_out = offset + n_read;
        }
    }
    return 0;
}
