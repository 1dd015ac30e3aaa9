/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Direct I/O of any alignment. */
#include "storage/direct-file.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/scratch.h"

/* For file systems and kernels (before 6.1) that do not report it: no block of theirs is
 * larger. */
#define DEFAULT_UNIT_BYTES ((size_t)4096)
/* The amount copied at once: a request of the kernel and a unit around it. */
#define BOUNCE_BYTES ((size_t)(QIMG_MIB + 64 * QIMG_KIB))

/* The alignment for direct I/O on the file in bytes; 0: no direct I/O. */
static size_t
find_unit(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx status;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        status.stx_mask & STATX_DIOALIGN)
        return MAX(status.stx_dio_offset_align, status.stx_dio_mem_align);
#else
    (void)fd;
#endif
    return DEFAULT_UNIT_BYTES;
}

static bool
is_power_of_two(size_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

QimgErrno
direct_file_open(DirectFile *direct, int cached_fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", cached_fd);
    size_t read_unit_bytes = find_unit(cached_fd);
    int flags = fcntl(cached_fd, F_GETFL);
    int fd;

    *direct = DIRECT_FILE_NONE;
    if (flags < 0)
        return -errno;
    if (!is_power_of_two(read_unit_bytes) || read_unit_bytes > QIMG_SCRATCH_ALIGNMENT)
        return -EINVAL;
    fd = open(link, (flags & (O_ACCMODE | O_NOATIME)) | O_DIRECT | O_CLOEXEC | O_NOCTTY |
                        O_NONBLOCK);
    if (fd < 0)
        return -errno;
    /* Tables are read in small pieces: the page cache should neither hold their
     * surroundings nor a folio that reaches into data (D1). */
    (void)posix_fadvise(cached_fd, 0, 0, POSIX_FADV_RANDOM);
    direct->fd = fd;
    direct->read_unit_bytes = read_unit_bytes;
    direct->write_unit_bytes = MAX(read_unit_bytes, (size_t)sysconf(_SC_PAGESIZE));
    return 0;
}

QimgErrno
direct_file_share(DirectFile *direct, const DirectFile *old)
{
    *direct = *old;
    if (old->fd < 0)
        return 0;
    direct->fd = fcntl(old->fd, F_DUPFD_CLOEXEC, 0);
    return direct->fd < 0 ? -errno : 0;
}

void
direct_file_close(DirectFile *direct)
{
    if (direct->fd >= 0)
        close(direct->fd);
    *direct = DIRECT_FILE_NONE;
}

static ssize_t
result_of(ssize_t result)
{
    return result < 0 ? -errno : result;
}

static bool
is_aligned(const void *memory, size_t unit_bytes)
{
    return ((uintptr_t)memory & (unit_bytes - 1)) == 0;
}

/* Reads whole units around the wanted bytes and copies the wanted ones. */
static ssize_t
read_around(const DirectFile *direct, uint64_t file_offset, void *buffer, size_t n_bytes)
{
    uint64_t start = qimg_align_down(file_offset, direct->read_unit_bytes);
    size_t head_bytes = (size_t)(file_offset - start);
    size_t wanted_bytes = head_bytes + MIN(n_bytes, BOUNCE_BYTES - head_bytes);
    size_t unit_bytes = direct->read_unit_bytes;
    uint8_t *bounce = qimg_scratch_get(QIMG_SCRATCH_DIRECT, BOUNCE_BYTES);
    ssize_t got;

    if (!bounce)
        return -ENOMEM;
    got = result_of(pread(direct->fd, bounce,
                          (wanted_bytes + unit_bytes - 1) & ~(unit_bytes - 1),
                          (off_t)start));
    if (got < 0)
        return got;
    got = MIN(got, (ssize_t)wanted_bytes) - (ssize_t)head_bytes;
    if (got <= 0)
        return 0;
    memcpy(buffer, bounce + head_bytes, (size_t)got);
    return got;
}

ssize_t
direct_file_pread(const DirectFile *direct, int cached_fd, uint64_t file_offset,
                  void *buffer, size_t n_bytes)
{
    size_t unit_bytes = direct->read_unit_bytes;
    size_t whole_bytes = n_bytes & ~(unit_bytes - 1);
    ssize_t got;

    if (file_offset % unit_bytes == 0 && is_aligned(buffer, unit_bytes) &&
        whole_bytes > 0)
        got = result_of(pread(direct->fd, buffer, whole_bytes, (off_t)file_offset));
    else
        got = read_around(direct, file_offset, buffer, n_bytes);
    /* End of file, blocks larger than reported, or a truncated read: retry through the
     * cached descriptor, which takes any alignment. */
    if (got == 0 || got == -EINVAL)
        got = result_of(pread(cached_fd, buffer, n_bytes, (off_t)file_offset));
    return got;
}

/* Copies the first @n_bytes of the parts. */
static void
gather(uint8_t *target, const struct iovec *parts, size_t n_bytes)
{
    for (; n_bytes > 0; parts++) {
        size_t part_bytes = MIN(parts->iov_len, n_bytes);

        memcpy(target, parts->iov_base, part_bytes);
        target += part_bytes;
        n_bytes -= part_bytes;
    }
}

/* How many of @n_bytes at @file_offset the next write takes, and whether it is direct. */
static size_t
clip_write(const DirectFile *direct, uint64_t file_offset, size_t n_bytes,
           bool *is_direct_out)
{
    size_t unit_bytes = direct->write_unit_bytes;
    size_t head_bytes = (size_t)(-file_offset & (unit_bytes - 1));

    *is_direct_out = head_bytes == 0 && n_bytes >= unit_bytes;
    if (*is_direct_out)
        return n_bytes & ~(unit_bytes - 1);
    return head_bytes > 0 ? MIN(head_bytes, n_bytes) : n_bytes;
}

ssize_t
direct_file_pwritev(const DirectFile *direct, int cached_fd, uint64_t file_offset,
                    const struct iovec *parts, int n_parts)
{
    const void *bytes = parts->iov_base;
    size_t n_bytes = 0;
    bool is_direct;
    ssize_t put = -EINVAL;

    for (int i = 0; i < n_parts; i++)
        n_bytes += parts[i].iov_len;
    n_bytes = clip_write(direct, file_offset, n_bytes, &is_direct);
    if (parts->iov_len < n_bytes ||
        (is_direct && !is_aligned(bytes, direct->read_unit_bytes))) {
        uint8_t *bounce = qimg_scratch_get(QIMG_SCRATCH_DIRECT, BOUNCE_BYTES);

        if (!bounce)
            return -ENOMEM;
        n_bytes = MIN(n_bytes, BOUNCE_BYTES & ~(direct->write_unit_bytes - 1));
        gather(bounce, parts, n_bytes);
        bytes = bounce;
    }
    if (is_direct)
        put = result_of(pwrite(direct->fd, bytes, n_bytes, (off_t)file_offset));
    if (put == -EINVAL) /* blocks larger than reported, or no direct I/O at all */
        put = result_of(pwrite(cached_fd, bytes, n_bytes, (off_t)file_offset));
    return put;
}
