/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A second descriptor of a file, past the page cache (O_DIRECT), beside the cached one.
 *
 * D1  A direct write covers whole pages of the page cache; what covers a page in part
 * goes through the cached descriptor. So writers of different bytes of a page meet in the
 *     page cache, which joins them; none of them reads, changes and writes back what
 *     another one changes meanwhile.
 * D2  A range may be written by one way and then read or written by the other: before and
 *     after each direct I/O the kernel writes back, and drops, what the page cache holds
 * of its range. The caller sees to it that one has ended before the other begins, as for
 *     any two requests of which one must see what the other wrote.
 * D3  What must be read in whole blocks around the wanted bytes is read into memory of
 * the thread and copied. */
#pragma once

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/types.h"

typedef struct {
    int fd;                  /* const after open; -1: none */
    size_t read_unit_bytes;  /* const after open: where direct reads begin and end, and
                                memory that is read into or written from */
    size_t write_unit_bytes; /* const after open: a multiple (D1) */
} DirectFile;

/* What is not open. */
#define DIRECT_FILE_NONE ((DirectFile){.fd = -1})

/* Opens the file of @cached_fd a second time, in the same mode. Errors: -EINVAL where its
 * file system, or this file, has no direct I/O; others of open. */
QimgErrno direct_file_open(DirectFile *direct, int cached_fd) QIMG_MUST_CHECK;

/* Makes @direct one more descriptor of what @old has open. Errors: those of fcntl. */
QimgErrno direct_file_share(DirectFile *direct, const DirectFile *old) QIMG_MUST_CHECK;

/* Closes it, if it is open. */
void direct_file_close(DirectFile *direct);

/* Reads up to @n_bytes at @file_offset, of any alignment; returns how many (0 only at the
 * end) or -errno. Threads: any; no lock may be held. Errors: those of pread; -ENOMEM. */
ssize_t direct_file_pread(const DirectFile *direct, int cached_fd, uint64_t file_offset,
                          void *buffer, size_t n_bytes);

/* Writes up to the sum of the @n_parts parts at @file_offset, of any alignment; returns
 * how much (> 0) or -errno. Threads and errors: as direct_file_pread, of pwrite. */
ssize_t direct_file_pwritev(const DirectFile *direct, int cached_fd, uint64_t file_offset,
                            const struct iovec *parts, int n_parts);
