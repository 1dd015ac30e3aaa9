/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/file-waits.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/wait-hook.h"

/* A longer call has waited; slow memory copies 1 byte in a nanosecond. */
#define SLOW_CALL_NS     100000
#define SLOW_NS_PER_BYTE 1

void
file_waits_init(FileWaits *waits, int fd)
{
    struct statfs host;
    bool is_in_memory = fstatfs(fd, &host) == 0 &&
                        (host.f_type == TMPFS_MAGIC || host.f_type == RAMFS_MAGIC);

    atomic_init(&waits->kind, is_in_memory ? WAITS_NEVER : WAITS_TOLD);
    atomic_init(&waits->was_read_slow, false);
    atomic_init(&waits->was_write_slow, false);
}

static FileWaitKind
wait_kind_of(const FileWaits *waits)
{
    return atomic_load_explicit(&waits->kind, memory_order_relaxed);
}

static int64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A call for which the file cannot report whether it waits. */
typedef struct {
    atomic_bool *was_slow;
    bool is_told; /* reported to the hook */
    int64_t start_ns;
} Guess;

static Guess
guess_begin(atomic_bool *was_slow)
{
    Guess guess = {.was_slow = was_slow,
                   .is_told = atomic_load_explicit(was_slow, memory_order_relaxed),
                   .start_ns = now_ns()};

    if (guess.is_told)
        qimg_wait_begin();
    return guess;
}

static void
guess_end(const Guess *guess, ssize_t n_bytes)
{
    int64_t limit_ns = SLOW_CALL_NS + (n_bytes > 0 ? n_bytes * SLOW_NS_PER_BYTE : 0);
    bool is_slow = now_ns() - guess->start_ns > limit_ns;

    if (guess->is_told)
        qimg_wait_end();
    if (is_slow != guess->is_told)
        atomic_store_explicit(guess->was_slow, is_slow, memory_order_relaxed);
}

static ssize_t
read_plain(int fd, void *buffer, size_t n_bytes, uint64_t file_offset)
{
    ssize_t got = pread(fd, buffer, n_bytes, (off_t)file_offset);

    return got < 0 ? -errno : got;
}

static ssize_t
read_waiting(int fd, void *buffer, size_t n_bytes, uint64_t file_offset)
{
    ssize_t got;

    qimg_wait_begin();
    got = read_plain(fd, buffer, n_bytes, file_offset);
    qimg_wait_end();
    return got;
}

static ssize_t
read_timed(FileWaits *waits, int fd, void *buffer, size_t n_bytes, uint64_t file_offset)
{
    Guess guess = guess_begin(&waits->was_read_slow);
    ssize_t got = read_plain(fd, buffer, n_bytes, file_offset);

    guess_end(&guess, got);
    return got;
}

static ssize_t
refuse_to_wait(QimgWaitRefusal *refusal, int fd, size_t n_bytes, uint64_t file_offset)
{
    refusal->is_refused = true;
    refusal->place =
        (QimgReadPlace){.fd = fd, .file_offset = file_offset, .length_bytes = n_bytes};
    return -EAGAIN;
}

ssize_t
file_read(FileWaits *waits, int fd, void *buffer, size_t n_bytes, uint64_t file_offset)
{
    struct iovec part = {.iov_base = buffer, .iov_len = n_bytes};
    QimgWaitRefusal *refusal = qimg_wait_get_refusal();
    ssize_t got;

    switch (wait_kind_of(waits)) {
    case WAITS_NEVER:
        return read_plain(fd, buffer, n_bytes, file_offset);
    case WAITS_TIMED:
        return read_timed(waits, fd, buffer, n_bytes, file_offset);
    case WAITS_TOLD:
        break;
    }
    if (refusal && refusal->is_expected)
        return refuse_to_wait(refusal, fd, n_bytes, file_offset);
    /* A short read returns the cached bytes, or all bytes up to the end. */
    got = preadv2(fd, &part, 1, (off_t)file_offset, RWF_NOWAIT);
    if (got >= 0)
        return got;
    if (errno == EAGAIN)
        return refusal ? refuse_to_wait(refusal, fd, n_bytes, file_offset)
                       : read_waiting(fd, buffer, n_bytes, file_offset);
    /* A file system or a filter of system calls without support for it. */
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EPERM)
        return -errno;
    atomic_store_explicit(&waits->kind, WAITS_TIMED, memory_order_relaxed);
    return read_timed(waits, fd, buffer, n_bytes, file_offset);
}

static ssize_t
write_plain(int fd, const struct iovec *parts, int n_parts, uint64_t file_offset)
{
    ssize_t put = pwritev(fd, parts, n_parts, (off_t)file_offset);

    return put < 0 ? -errno : put;
}

ssize_t
file_writev(FileWaits *waits, int fd, const struct iovec *parts, int n_parts,
            uint64_t file_offset)
{
    Guess guess;
    ssize_t put;

    if (wait_kind_of(waits) == WAITS_NEVER)
        return write_plain(fd, parts, n_parts, file_offset);
    guess = guess_begin(&waits->was_write_slow);
    put = write_plain(fd, parts, n_parts, file_offset);
    guess_end(&guess, put);
    return put;
}

QimgErrno
file_sync_data(const FileWaits *waits, int fd)
{
    bool may_wait = wait_kind_of(waits) != WAITS_NEVER;
    QimgErrno err;

    if (may_wait)
        qimg_wait_begin();
    err = fdatasync(fd) < 0 ? -errno : 0;
    if (may_wait)
        qimg_wait_end();
    return err;
}
