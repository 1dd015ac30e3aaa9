/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A decoded L2 entry of either qcow version. Inline, since each mapped cluster passes
 * through here. Pure functions; any thread. */
#pragma once

#include "codec/rules.h"

typedef enum {
    QIMG_L2_UNALLOCATED,
    QIMG_L2_ZEROS, /* version 1 has none */
    QIMG_L2_DATA,
    QIMG_L2_STREAM, /* compressed */
    QIMG_L2_DAMAGED,
} QimgL2Kind;

/* One entry, or the part of an extended one that has one answer. */
typedef struct {
    QimgL2Kind kind;
    QimgRule rule;          /* DAMAGED */
    uint64_t host_offset;   /* DATA: of the cluster; STREAM: of its first byte */
    uint32_t stream_bytes;  /* STREAM: limit of the readable bytes */
    uint32_t n_subclusters; /* from the requested one on, with this answer; 1 without
                               subclusters */
} QimgL2Entry;

/* Whether @next continues the run of @first, which lies @distance_bytes before it on the
 * disk, as does everything between them. */
static inline bool
qimg_l2_continues(const QimgL2Entry *first, const QimgL2Entry *next,
                  uint64_t distance_bytes)
{
    if (next->kind != first->kind)
        return false;
    switch (first->kind) {
    case QIMG_L2_DATA:
        return next->host_offset == first->host_offset + distance_bytes;
    case QIMG_L2_DAMAGED:
        return next->rule == first->rule;
    case QIMG_L2_STREAM:
        return false;
    default:
        return true;
    }
}
