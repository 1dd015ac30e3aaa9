/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A library to be preloaded: a disk on which reads of one length are answered only when
 * GATHER_READS of them are in flight together, and from then on at once. Reads of other
 * lengths, or below the place GATHER_FROM of their file, are as usual. If the others have
 * not arrived after GATHER_LIMIT_S seconds, all of them fail. */
#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* const after the start: */
static long n_wanted;
static size_t gathered_bytes;
static off_t first_offset;
static long limit_s;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* Guarded by lock: */
static long n_inside;
static bool is_complete;
static bool has_failed;

static long
number(const char *name)
{
    const char *text = getenv(name);

    return text ? strtol(text, NULL, 10) : 0;
}

__attribute__((constructor)) static void
read_environment(void)
{
    n_wanted = number("GATHER_READS");
    gathered_bytes = (size_t)number("GATHER_BYTES");
    first_offset = number("GATHER_FROM");
    limit_s = number("GATHER_LIMIT_S");
}

static bool
is_gathered(size_t n_bytes, off_t file_offset)
{
    return n_bytes == gathered_bytes && file_offset >= first_offset;
}

/* Waits for the others; false: they have not arrived. */
static bool
gather(void)
{
    struct timespec deadline;
    bool is_good;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += limit_s;
    pthread_mutex_lock(&lock);
    if (++n_inside >= n_wanted)
        is_complete = true;
    pthread_cond_broadcast(&changed);
    while (!is_complete && !has_failed)
        has_failed |= pthread_cond_timedwait(&changed, &lock, &deadline) == ETIMEDOUT;
    pthread_cond_broadcast(&changed);
    is_good = !has_failed;
    n_inside--;
    pthread_mutex_unlock(&lock);
    return is_good;
}

/* The project is built with large file offsets, as the server is: the symbols are those
 * of pread64, preadv64v2 and fstatfs64. */
ssize_t
pread(int fd, void *buffer, size_t n_bytes, off_t file_offset)
{
    if (is_gathered(n_bytes, file_offset) && !gather()) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, fd, buffer, n_bytes, file_offset);
}

/* Answers like a disk whose bytes are not in memory. */
ssize_t
preadv2(int fd, const struct iovec *parts, int n_parts, off_t file_offset, int flags)
{
    bool is_complete_now;

    pthread_mutex_lock(&lock);
    is_complete_now = is_complete;
    pthread_mutex_unlock(&lock);
    if (n_parts == 1 && is_gathered(parts->iov_len, file_offset) && !is_complete_now &&
        flags & RWF_NOWAIT) {
        errno = EAGAIN;
        return -1;
    }
    return syscall(SYS_preadv2, fd, parts, n_parts, file_offset, 0, flags & ~RWF_NOWAIT);
}

/* All files are on a disk. */
int
fstatfs(int fd, struct statfs *out)
{
    int result = (int)syscall(SYS_fstatfs, fd, out);

    if (result == 0)
        out->f_type = EXT4_SUPER_MAGIC;
    return result;
}

/* No rings: these reads would come past this library. */
int
epoll_create1(int flags)
{
    (void)flags;
    errno = EMFILE;
    return -1;
}
