/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One decoded L1 or L2 entry. Spec: qcow2 sections 4 to 6. Inline, since each mapped
 * cluster passes through here. Pure functions; any thread. */
#pragma once

#include "base/checked.h"
#include "codec/l2-entry.h"
#include "codec/qcow2-geometry.h"

#define QCOW2_OFFSET_MASK     UINT64_C(0x00fffffffffffe00) /* bits 9–55 */
#define QCOW2_ENTRY_COPIED    (UINT64_C(1) << 63)
#define QCOW2_L2_COMPRESSED   (UINT64_C(1) << 62)
#define QCOW2_L2_ZERO         (UINT64_C(1) << 0)
#define QCOW2_MAX_HOST_OFFSET (UINT64_C(1) << 56)

/* For standard entries; with extended entries bit 0 is reserved, too. */
#define QCOW2_L2_RESERVED UINT64_C(0x3f000000000001fe)
#define QCOW2_L1_RESERVED UINT64_C(0x7f000000000001ff)

/* Bitmaps of extended entries: all subclusters allocated, or all zeros. */
#define QCOW2_ALL_ALLOCATED UINT64_C(0x00000000ffffffff)
#define QCOW2_ALL_ZEROS     UINT64_C(0xffffffff00000000)

/* Decodes a compressed entry. Spec: qcow2 section 5. */
static inline QimgL2Entry
qcow2_l2_decode_compressed(const Qcow2Geometry *g, uint64_t word)
{
    uint64_t host_offset = word & ((UINT64_C(1) << g->compressed_shift) - 1);
    uint64_t n_more_sectors = (word & (QCOW2_L2_COMPRESSED - 1)) >> g->compressed_shift;

    if (g->has_data_file)
        return (QimgL2Entry){.kind = QIMG_L2_DAMAGED,
                             .rule = QIMG_RULE_COMPRESSED_DATA_FILE};
    if (host_offset >= QCOW2_MAX_HOST_OFFSET)
        return (QimgL2Entry){.kind = QIMG_L2_DAMAGED,
                             .rule = QIMG_RULE_COMPRESSED_OFFSET};
    return (QimgL2Entry){
        .kind = QIMG_L2_STREAM,
        .host_offset = host_offset,
        .stream_bytes = (uint32_t)((n_more_sectors + 1) * QIMG_SECTOR_BYTES -
                                   host_offset % QIMG_SECTOR_BYTES),
    };
}

/* Whether a standard entry refers to a host cluster: offset 0 counts only with a data
 * file and the COPIED bit. Spec: qcow2 section 4. */
static inline bool
qcow2_l2_has_cluster(const Qcow2Geometry *g, uint64_t word)
{
    return (word & QCOW2_OFFSET_MASK) != 0 ||
           (g->has_data_file && (word & QCOW2_ENTRY_COPIED) != 0);
}

/* Checks the offset of an entry for data at @guest_offset (of its cluster). */
static inline QimgRule
qcow2_l2_check_data(const Qcow2Geometry *g, uint64_t host_offset, uint64_t guest_offset)
{
    if (!qimg_is_aligned(host_offset, g->cluster_bytes))
        return QIMG_RULE_DATA_UNALIGNED;
    if (g->has_data_file && host_offset != guest_offset)
        return QIMG_RULE_DATA_FILE_OFFSET;
    return QIMG_RULE_OK;
}

/* Decodes a standard (one-word) entry for the cluster at @guest_offset. */
static inline QimgL2Entry
qcow2_l2_decode(const Qcow2Geometry *g, uint64_t word, uint64_t guest_offset)
{
    QimgL2Entry e = {.host_offset = word & QCOW2_OFFSET_MASK, .n_subclusters = 1};

    if (word & QCOW2_L2_COMPRESSED) {
        e = qcow2_l2_decode_compressed(g, word);
        e.n_subclusters = 1;
        return e;
    }
    if (word & QCOW2_L2_ZERO) {
        e.kind = g->version >= 3 ? QIMG_L2_ZEROS : QIMG_L2_DAMAGED;
        e.rule = g->version >= 3 ? QIMG_RULE_OK : QIMG_RULE_ZERO_BIT_V2;
    } else if (!qcow2_l2_has_cluster(g, word)) {
        e.kind = QIMG_L2_UNALLOCATED;
    } else {
        e.rule = qcow2_l2_check_data(g, e.host_offset, guest_offset);
        e.kind = e.rule ? QIMG_L2_DAMAGED : QIMG_L2_DATA;
    }
    return e;
}

/* Decodes the part of an extended entry (@word, @bitmap) that begins at subcluster
 * @subcluster (below 32), for the cluster at @guest_offset. A contradiction anywhere in
 * the entry damages all of it. Spec: qcow2 section 6. */
static inline QimgL2Entry
qcow2_l2_decode_extended(const Qcow2Geometry *g, uint64_t word, uint64_t bitmap,
                         uint32_t subcluster, uint64_t guest_offset)
{
    uint32_t allocated = (uint32_t)bitmap;
    uint32_t zeros = (uint32_t)(bitmap >> 32);
    uint32_t n_left = QCOW2_N_SUBCLUSTERS - subcluster;
    uint32_t different; /* bit i: subcluster + i has another answer */
    QimgL2Entry e = {.host_offset = word & QCOW2_OFFSET_MASK, .n_subclusters = n_left};

    if (word & QCOW2_L2_COMPRESSED) { /* the bitmap has no meaning */
        e = qcow2_l2_decode_compressed(g, word);
        e.n_subclusters = n_left;
        return e;
    }
    e.rule = QIMG_RULE_OK;
    if ((allocated & zeros) != 0 || (allocated != 0 && !qcow2_l2_has_cluster(g, word)))
        e.rule = QIMG_RULE_SUBCLUSTER_BITMAP;
    else if (allocated != 0)
        e.rule = qcow2_l2_check_data(g, e.host_offset, guest_offset);
    if (e.rule) {
        e.kind = QIMG_L2_DAMAGED;
        return e;
    }
    allocated >>= subcluster;
    zeros >>= subcluster;
    if (allocated & 1) {
        e.kind = QIMG_L2_DATA;
        different = ~allocated;
    } else if (zeros & 1) {
        e.kind = QIMG_L2_ZEROS;
        different = ~zeros;
    } else {
        e.kind = QIMG_L2_UNALLOCATED;
        different = allocated | zeros;
    }
    if (different != 0)
        e.n_subclusters =
            (uint32_t)qimg_min_u64(n_left, (uint32_t)__builtin_ctz(different));
    return e;
}

/* Whether the entry (@word, and @bitmap with extended entries) for the cluster at
 * @guest_offset may be changed: QIMG_RULE_OK, or the broken rule. Unknown information
 * must not be replaced. */
static inline QimgRule
qcow2_l2_check_for_change(const Qcow2Geometry *g, uint64_t word, uint64_t bitmap,
                          uint64_t guest_offset)
{
    QimgL2Entry e;

    if (word & QCOW2_L2_COMPRESSED) {
        e = qcow2_l2_decode_compressed(g, word);
        return e.kind == QIMG_L2_DAMAGED ? e.rule : QIMG_RULE_OK;
    }
    if ((word & QCOW2_L2_RESERVED) || (g->extended_l2 && (word & QCOW2_L2_ZERO)))
        return QIMG_RULE_L2_RESERVED;
    e = g->extended_l2 ? qcow2_l2_decode_extended(g, word, bitmap, 0, guest_offset)
                       : qcow2_l2_decode(g, word, guest_offset);
    if (e.kind == QIMG_L2_DAMAGED)
        return e.rule;
    return qcow2_l2_has_cluster(g, word)
               ? qcow2_l2_check_data(g, word & QCOW2_OFFSET_MASK, guest_offset)
               : QIMG_RULE_OK;
}

/* The subclusters touched by [@start, @end), both bytes within a cluster, as bits. */
static inline uint32_t
qcow2_subcluster_mask(const Qcow2Geometry *g, uint64_t start, uint64_t end)
{
    uint64_t first = start >> g->subcluster_bits;
    uint64_t n = qimg_div_round_up(end, UINT64_C(1) << g->subcluster_bits) - first;

    return (uint32_t)((UINT64_MAX >> (64 - n)) << first);
}
