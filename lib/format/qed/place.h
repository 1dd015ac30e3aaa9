/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Places of entries in tables, and valid offsets in entries. */
#pragma once

#include "format/qed/qed.h"
#include "format/table-place.h"

/* Values of an L2 entry that are no offsets. Spec: qed section 2. */
#define QED_ENTRY_UNALLOCATED 0u
#define QED_ENTRY_ZERO        1u

/* Whether @host_offset is valid for a cluster, or for a table: aligned, behind the
 * header, and within the file. Spec: qed section 2. Any thread. */
bool qed_is_place_for_cluster(Qed *qed, uint64_t host_offset);
bool qed_is_place_for_table(Qed *qed, uint64_t host_offset);

/* The offset of a table's slice that holds entry @index. */
static inline uint64_t
qed_slice_offset(uint64_t table_offset, uint64_t index)
{
    return table_offset + (index & ~(uint64_t)(TABLE_SLICE_WORDS - 1)) * sizeof(uint64_t);
}

static inline QimgTablePlace
qed_place_of(const Qed *qed, uint64_t guest_offset, uint64_t length_bytes)
{
    return qimg_table_place(guest_offset, length_bytes, qed->header.cluster_bits,
                            qed->l1_shift, TABLE_SLICE_WORDS);
}
