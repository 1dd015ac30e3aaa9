/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The place of a request in the tables of a format with two levels of them, which are
 * read in slices. */
#pragma once

#include "base/checked.h"

/* The place of a request in its L2 table. */
typedef struct {
    uint64_t l1_index;
    uint64_t l2_index;
    uint64_t index_in_slice; /* of the same entry */
    uint64_t cluster_start;  /* guest offset */
    uint64_t in_cluster_bytes;
    uint64_t n_entries; /* from l2_index on: of the request, within one slice */
} QimgTablePlace;

/* @l1_shift turns a guest offset into an L1 index. */
static inline QimgTablePlace
qimg_table_place(uint64_t guest_offset, uint64_t length_bytes, unsigned cluster_bits,
                 unsigned l1_shift, uint64_t entries_per_slice)
{
    uint64_t cluster_bytes = UINT64_C(1) << cluster_bits;
    uint64_t in_cluster = guest_offset & (cluster_bytes - 1);
    QimgTablePlace p = {
        .l1_index = guest_offset >> l1_shift,
        .l2_index = (guest_offset & ((UINT64_C(1) << l1_shift) - 1)) >> cluster_bits,
        .cluster_start = guest_offset - in_cluster,
        .in_cluster_bytes = in_cluster,
    };

    p.index_in_slice = p.l2_index & (entries_per_slice - 1);
    p.n_entries =
        qimg_min_u64(qimg_div_round_up(qimg_min_u64(length_bytes, INT64_MAX) + in_cluster,
                                       cluster_bytes),
                     entries_per_slice - p.index_in_slice);
    return p;
}
