/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Buffers that a thread keeps from one request to the next, so that hot paths do not
 * allocate: one for each use, since one use may happen inside another. */
#pragma once

#include "base/types.h"

typedef enum {
    QIMG_SCRATCH_STREAM, /* compressed data */
    QIMG_SCRATCH_TABLE,  /* a part of a table */
    QIMG_SCRATCH_FILL,   /* old content that is copied around a write */
    QIMG_SCRATCH_DIRECT, /* data between the disk and memory of another alignment */
    QIMG_N_SCRATCH_USES,
} QimgScratchUse;

/* What each of them is aligned to, in bytes. */
#define QIMG_SCRATCH_ALIGNMENT ((size_t)4096)

/* Gives the calling thread's buffer for @use with room for @n_bytes, aligned, or
 * NULL when memory is short. The content is undefined; the buffer is the caller's until
 * the thread's next call for the same use, and freed when the thread ends. */
void *qimg_scratch_get(QimgScratchUse use, size_t n_bytes) QIMG_MUST_CHECK;
