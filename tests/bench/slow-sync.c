/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A library to be preloaded: every sync of the process takes BENCH_FLUSH_US microseconds
 * longer, as on a disk whose cache must be flushed. Calls that only start writing
 * (sync_file_range) are as before, and so are syncs through io_uring. */
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static struct timespec delay; /* const after the start */

__attribute__((constructor)) static void
read_delay(void)
{
    const char *text = getenv("BENCH_FLUSH_US");
    long us = text ? strtol(text, NULL, 10) : 0;

    delay.tv_sec = us / 1000000;
    delay.tv_nsec = us % 1000000 * 1000;
}

static long
after_delay(long result)
{
    int saved_errno = errno;

    nanosleep(&delay, NULL);
    errno = saved_errno;
    return result;
}

int
fsync(int fd)
{
    return (int)after_delay(syscall(SYS_fsync, fd));
}

int
fdatasync(int fd)
{
    return (int)after_delay(syscall(SYS_fdatasync, fd));
}

int
syncfs(int fd)
{
    return (int)after_delay(syscall(SYS_syncfs, fd));
}

/* The project is built with large file offsets, as the servers are: the symbol is that of
 * pwritev64v2. */
ssize_t
pwritev2(int fd, const struct iovec *parts, int n_parts, off_t file_offset, int flags)
{
    ssize_t result = syscall(SYS_pwritev2, fd, parts, n_parts, file_offset, 0, flags);

    return flags & (RWF_DSYNC | RWF_SYNC) ? after_delay(result) : result;
}
