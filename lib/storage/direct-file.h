/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A second descriptor of a file that bypasses the page cache (O_DIRECT), beside the
 * cached one.
 *
 * D1  A direct write covers whole pages of the page cache; a partly covered page goes
 *     through the cached descriptor. So the page cache joins writes to different bytes of
 *     a page; no writer reads a page, changes it and writes it back while another writer
 *     changes it.
 *
 * D2  A range may be written one way and then read or written the other way: before and
 *     after each direct I/O the kernel writes back and drops the cached pages of its
 *     range. The caller ensures that one request has ended before the other begins, as
 *     for any two requests of which one must see the other's writes.
 *
 * D3  Bytes that must be read in whole blocks are read into the thread's memory and
 *     copied. */
#pragma once

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/types.h"

typedef struct {
    int fd;                  /* const after open; -1: none */
    size_t read_unit_bytes;  /* const after open: alignment of direct reads, and of the
                                memory for direct I/O */
    size_t write_unit_bytes; /* const after open: a multiple (D1) */
} DirectFile;

/* A value for "not open". */
#define DIRECT_FILE_NONE ((DirectFile){.fd = -1})

/* Opens the file of @cached_fd a second time, in the same mode. Errors: -EINVAL if its
 * file system, or this file, has no direct I/O; others of open. */
QimgErrno direct_file_open(DirectFile *direct, int cached_fd) QIMG_MUST_CHECK;

/* Makes @direct another descriptor of @old's open file. Errors: those of fcntl. */
QimgErrno direct_file_share(DirectFile *direct, const DirectFile *old) QIMG_MUST_CHECK;

/* Closes @direct, if it is open. */
void direct_file_close(DirectFile *direct);

/* Reads up to @n_bytes at @file_offset, of any alignment; returns the number (0 only at
 * the end) or -errno. Threads: any; no lock may be held. Errors: those of pread;
 * -ENOMEM. */
ssize_t direct_file_pread(const DirectFile *direct, int cached_fd, uint64_t file_offset,
                          void *buffer, size_t n_bytes);

/* Writes up to the sum of the @n_parts parts at @file_offset, of any alignment; returns
 * the number of bytes (> 0) or -errno. Threads and errors: as direct_file_pread, of
 * pwrite. */
ssize_t direct_file_pwritev(const DirectFile *direct, int cached_fd, uint64_t file_offset,
                            const struct iovec *parts, int n_parts);
