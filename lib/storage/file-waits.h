/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads, writes and syncs of a file that report waits for the disk to base/wait-hook.h. A
 * read of cached bytes costs no more than a pread. */
#pragma once

#include <stdatomic.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/types.h"

/* How to learn whether a read of the file waits. */
typedef enum {
    WAITS_TOLD,  /* preadv2 refuses to wait */
    WAITS_NEVER, /* the file is in memory */
    WAITS_TIMED, /* unknown (NFS, FUSE): a read waits if the previous one did */
} FileWaitKind;

typedef struct {
    _Atomic FileWaitKind kind;  /* atomic, relaxed: TOLD becomes TIMED on failure */
    atomic_bool was_read_slow;  /* atomic, relaxed: the last read, of WAITS_TIMED */
    atomic_bool was_write_slow; /* atomic, relaxed: the last write */
} FileWaits;

/* Determines the kind of file @fd. */
void file_waits_init(FileWaits *waits, int fd);

/* As pread(2), with -errno as the error; may return fewer than @n_bytes before the end of
 * the file. -EAGAIN: it would wait, and the calling thread refuses to. Threads: any. */
ssize_t file_read(FileWaits *waits, int fd, void *buffer, size_t n_bytes,
                  uint64_t file_offset);

/* As pwritev(2), with -errno as the error. The kernel cannot tell whether a write will
 * wait (for a block that it changes in part, or for the writeback of others): it is
 * assumed to if the previous one did. Threads: any. */
ssize_t file_writev(FileWaits *waits, int fd, const struct iovec *parts, int n_parts,
                    uint64_t file_offset);

/* As fdatasync(2), with -errno as the error. Threads: any. */
QimgErrno file_sync_data(const FileWaits *waits, int fd);
