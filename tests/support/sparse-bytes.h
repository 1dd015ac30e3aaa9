/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A long array of bytes of which only the pages with content need memory. Not
 * thread-safe. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define SPARSE_PAGE_BYTES 4096u

typedef struct SparseBytes SparseBytes;

/* An array of @size_bytes zeros. Free with sparse_bytes_free. */
SparseBytes *sparse_bytes_new(uint64_t size_bytes);
void sparse_bytes_free(SparseBytes *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SparseBytes, sparse_bytes_free)

uint64_t sparse_bytes_size(const SparseBytes *s);

/* Bytes of memory in pages. */
uint64_t sparse_bytes_used(const SparseBytes *s);

/* From now on, pages are limited to @n_bytes. */
void sparse_bytes_set_capacity(SparseBytes *s, uint64_t n_bytes);

/* Cuts the array, or adds zeros. */
void sparse_bytes_set_size(SparseBytes *s, uint64_t size_bytes);

/* Copies the bytes at [@offset, + @n_bytes), with zeros past the end. */
void sparse_bytes_read(const SparseBytes *s, uint64_t offset, void *buffer,
                       size_t n_bytes);

/* Writes the part with room, and returns its length; the array grows as needed. */
size_t sparse_bytes_write(SparseBytes *s, uint64_t offset, const void *buffer,
                          size_t n_bytes);

/* Zeros the part of the range below the end; frees whole pages. */
void sparse_bytes_punch(SparseBytes *s, uint64_t offset, uint64_t n_bytes);

/* Allocates pages of zeros for the range; false, with nothing done, if there is no room.
 * The range may pass the end, which stays. */
bool sparse_bytes_allocate(SparseBytes *s, uint64_t offset, uint64_t n_bytes);
