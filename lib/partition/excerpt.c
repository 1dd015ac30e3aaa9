/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "partition/excerpt.h"

#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"

#define HEAD_BYTES  (2 * QIMG_MIB)
#define TAIL_BYTES  QIMG_MIB
#define PIECE_BYTES (64 * QIMG_KIB)

static bool
excerpt_is_zero(const uint8_t *bytes, size_t n_bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, n_bytes - 1) == 0;
}

/* Copies [@start, @end); leaves zeros for unreadable bytes. */
static bool
copy_stretch(const PartitionSource *source, int fd, uint64_t start, uint64_t end)
{
    g_autofree uint8_t *bytes = g_try_malloc(PIECE_BYTES);

    if (!bytes)
        return false;
    while (start < end) {
        size_t n_bytes = (size_t)qimg_min_u64(end - start, PIECE_BYTES);

        if (source->read(source->user, start, bytes, n_bytes) == 0 &&
            !excerpt_is_zero(bytes, n_bytes) &&
            pwrite(fd, bytes, n_bytes, (off_t)start) != (ssize_t)n_bytes)
            return false;
        start += n_bytes;
    }
    return true;
}

int
partition_excerpt_make(const PartitionSource *source, const uint64_t *more_bytes,
                       size_t n_more)
{
    uint64_t size_bytes = source->size_bytes;
    uint64_t head_end = qimg_min_u64(size_bytes, HEAD_BYTES);
    uint64_t tail_start = size_bytes - qimg_min_u64(size_bytes - head_end, TAIL_BYTES);
    qimg_autofd fd = memfd_create("qimg-partition", MFD_CLOEXEC);

    if (fd < 0 || size_bytes > INT64_MAX || ftruncate(fd, (off_t)size_bytes) < 0 ||
        !copy_stretch(source, fd, 0, head_end) ||
        !copy_stretch(source, fd, tail_start, size_bytes))
        return -1;
    for (size_t i = 0; i < n_more; i++) {
        uint64_t start = qimg_min_u64(more_bytes[i], size_bytes);

        if (!copy_stretch(source, fd, start,
                          start + qimg_min_u64(size_bytes - start, PIECE_BYTES)))
            return -1;
    }
    return qimg_steal_fd(&fd);
}
