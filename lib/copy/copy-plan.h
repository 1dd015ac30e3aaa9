/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cutting a disk into pieces. */
#pragma once

#include "base/types.h"

#define COPY_MIN_CHUNK_BYTES QIMG_MIB
/* A hole that must be written or digested is processed in pieces of this size; the copy
 * can stop after each. */
#define COPY_HOLE_PIECE_BYTES (64 * QIMG_MIB)

typedef struct {
    uint64_t guest_offset;
    uint64_t length_bytes;
    bool is_hole; /* zeros that need no reading */
} CopyPiece;

/* Cuts a disk into consecutive pieces without gaps: holes, and chunks with data, whose
 * ends are multiples of the chunk's size. */
typedef struct {
    uint64_t size_bytes;
    uint64_t chunk_bytes;    /* a power of two */
    uint64_t max_hole_bytes; /* a multiple of the chunk */
    uint64_t next_offset;    /* start of the next piece */
    uint64_t data_offset; /* everything from next_offset to here is known to be a hole */
    /* As qimg_image_seek for data. */
    QimgErrno (*find_data)(void *user, uint64_t guest_offset, uint64_t *offset_out);
    void *user;
} CopyPlan;

/* The next piece; false at the disk's end. If find_data fails the piece counts as data:
 * its reader gets the error. */
bool copy_plan_next(CopyPlan *plan, CopyPiece *out);
