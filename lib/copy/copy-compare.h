/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading a target back. */
#pragma once

#include "storage/storage.h"

#define COPY_NO_DIFFERENCE UINT64_MAX

typedef struct {
    QimgStorage *target; /* borrowed, as is fd */
    int fd;
    int direct_fd; /* bypasses the page cache; -1: impossible, or not requested */
} CopyReader;

/* Prepares to read @target, a file of the host. With @from_medium, drops its pages from
 * the page cache (it must have been synced) and reads with direct I/O. */
void copy_reader_open(CopyReader *reader, QimgStorage *target, bool from_medium);
void copy_reader_close(CopyReader *reader);
/* Compares with @wanted; @buffer has room for @n_bytes up to the next granule and is
 * aligned to one. *@different_out is written only on a difference. Any thread. */
QimgErrno copy_reader_compare(const CopyReader *reader, uint64_t offset,
                              const uint8_t *wanted, size_t n_bytes, uint8_t *buffer,
                              uint64_t *different_out) QIMG_MUST_CHECK;
/* As copy_reader_compare, with zeros; the caller initializes *@different_out to
 * COPY_NO_DIFFERENCE. */
QimgErrno copy_reader_check_zeros(const CopyReader *reader, uint64_t offset,
                                  uint64_t n_bytes, uint8_t *buffer, size_t buffer_bytes,
                                  const _Atomic bool *stop, uint64_t *different_out)
    QIMG_MUST_CHECK;
