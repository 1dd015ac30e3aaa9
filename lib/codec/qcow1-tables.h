/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One decoded L2 entry of qcow version 1. An L1 entry is the plain offset of an L2 table,
 * 0 for none. Inline, since each mapped cluster passes through here. Pure functions; any
 * thread. */
#pragma once

#include "base/checked.h"
#include "codec/l2-entry.h"
#include "codec/qcow1-header.h"

#define QCOW1_L2_COMPRESSED (UINT64_C(1) << 63)

/* Decodes an entry. 0: unallocated. Bit 63 clear: the offset of the cluster, whole
 * sectors. Bit 63 set: compressed; bits 63 - cluster_bits to 62 are the length of the
 * stream in bytes, and the bits below are its offset. */
static inline QimgL2Entry
qcow1_l2_decode(unsigned cluster_bits, uint64_t word)
{
    unsigned length_shift = 63 - cluster_bits;
    QimgL2Entry e = {.host_offset = word, .n_subclusters = 1};

    if (word & QCOW1_L2_COMPRESSED) {
        e.kind = QIMG_L2_STREAM;
        e.host_offset = word & ((UINT64_C(1) << length_shift) - 1);
        e.stream_bytes = (uint32_t)((word & ~QCOW1_L2_COMPRESSED) >> length_shift);
        e.rule = e.stream_bytes == 0 ? QIMG_RULE_STREAM_EMPTY : QIMG_RULE_OK;
    } else if (word == 0) {
        e.kind = QIMG_L2_UNALLOCATED;
    } else {
        e.kind = QIMG_L2_DATA;
        if (!qimg_is_aligned(word, QIMG_SECTOR_BYTES))
            e.rule = QIMG_RULE_QCOW1_DATA_UNALIGNED;
    }
    if (e.rule)
        e.kind = QIMG_L2_DAMAGED;
    return e;
}
