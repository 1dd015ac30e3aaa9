/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads, writes and syncs of a file that tell base/wait-hook.h when they wait for the
 * disk. A read whose bytes are in memory costs no more than a pread. */
#pragma once

#include <stdatomic.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/types.h"

/* How a file tells whether a read waits. */
typedef enum {
    WAITS_TOLD,  /* preadv2 refuses to wait */
    WAITS_NEVER, /* the file lies in memory */
    WAITS_TIMED, /* nothing tells (NFS, FUSE): a read waits if the one before did */
} FileWaitKind;

typedef struct {
    _Atomic FileWaitKind kind;  /* atomic, relaxed: TOLD becomes TIMED when it fails */
    atomic_bool was_read_slow;  /* atomic, relaxed: the last read, of WAITS_TIMED */
    atomic_bool was_write_slow; /* atomic, relaxed: the last write */
} FileWaits;

/* Finds out what kind of file @fd is. */
void file_waits_init(FileWaits *waits, int fd);

/* As pread(2), with -errno as the error; fewer bytes than @n_bytes may come although the
 * file has more. Threads: any. */
ssize_t file_read(FileWaits *waits, int fd, void *buffer, size_t n_bytes,
                  uint64_t file_offset);

/* As pwritev(2), with -errno as the error. Nothing tells whether a write waits (for a
 * block that it changes in part, or until others are on the disk): it does if the one
 * before did. Threads: any. */
ssize_t file_writev(FileWaits *waits, int fd, const struct iovec *parts, int n_parts,
                    uint64_t file_offset);

/* As fdatasync(2), with -errno as the error. Threads: any. */
QimgErrno file_sync_data(const FileWaits *waits, int fd);
