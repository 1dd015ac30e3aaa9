/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Buffers that a thread keeps between requests, so that hot paths do not allocate: one
 * for each use, since one use may happen inside another. */
#pragma once

#include "base/types.h"

typedef enum {
    QIMG_SCRATCH_STREAM, /* compressed data */
    QIMG_SCRATCH_TABLE,  /* a part of a table */
    QIMG_SCRATCH_FILL,   /* old content copied around a write */
    QIMG_SCRATCH_CRYPT,  /* encrypted data on their way to the disk */
    QIMG_SCRATCH_DIRECT, /* data between the disk and differently aligned memory */
    QIMG_N_SCRATCH_USES,
} QimgScratchUse;

/* The alignment of each buffer, in bytes. */
#define QIMG_SCRATCH_ALIGNMENT ((size_t)4096)

/* The calling thread's buffer for @use with room for @n_bytes, aligned, or NULL if memory
 * is short. The content is undefined. The caller may use it until the thread's next call
 * for the same use; it is freed when the thread ends. */
void *qimg_scratch_get(QimgScratchUse use, size_t n_bytes) QIMG_MUST_CHECK;
