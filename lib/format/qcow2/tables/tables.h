/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing L1 and L2 entries. */
#pragma once

#include "format/qcow2/layer/qcow2.h"
#include "format/qcow2/tables/l2-entry.h"
#include "format/table-place.h"

static inline QimgTablePlace
qcow2_place_of(const Qcow2 *q, uint64_t guest_offset, uint64_t length_bytes)
{
    return qimg_table_place(guest_offset, length_bytes, q->geometry.cluster_bits,
                            q->geometry.l1_shift,
                            q->slice_words / q->geometry.l2_entry_words);
}

/* The L2 table for @l1_index as a table that only the active disk uses: creates a missing
 * one, copies a shared one. Threads: any; no lock may be held. Errors: as plan_write. */
QimgErrno qcow2_ensure_l2_table(Qcow2 *q, uint64_t l1_index,
                                uint64_t *l2_table_offset_out) QIMG_MUST_CHECK;

/* The offset of the L2 table of @l1_index in *@l2_table_offset_out, 0: there is none; and
 * whether only the active disk uses it. */
QimgErrno qcow2_find_l2_table(Qcow2 *q, uint64_t l1_index, uint64_t *l2_table_offset_out,
                              bool *is_private_out) QIMG_MUST_CHECK;

/* A slice of an L2 table, pinned for a change (T1). */
typedef struct {
    TableSlice slice;
    uint64_t host_offset; /* of its first word */
} Qcow2L2Slice;

/* Pins the slice with entry @l2_index of the table at @l2_table_offset. Unpin with
 * table_slice_unpin(&slice->slice). */
QimgErrno qcow2_l2_pin(Qcow2 *q, uint64_t l2_table_offset, uint64_t l2_index,
                       Qcow2L2Slice *out) QIMG_MUST_CHECK;

/* The entry @l2_index of its table, in the slice with it. */
static inline Qcow2L2Words
qcow2_l2_get(const Qcow2 *q, const Qcow2L2Slice *slice, uint64_t l2_index)
{
    uint64_t n_words = q->geometry.l2_entry_words;

    return qcow2_l2_load(&slice->slice, l2_index % (q->slice_words / n_words), n_words);
}

/* The order in which entries change. */
typedef struct {
    bool data_first;      /* their data may not be durable yet (W2) */
    bool is_bitmap_first; /* extended entries: readers see the bitmap change first (the
                             old word ignores it) */
} Qcow2L2Order;

/* Writes @n_words at word @word_index of the slice to the file, and then to the slice;
 * @words are host-endian. */
QimgErrno qcow2_l2_store(Qcow2 *q, Qcow2L2Slice *slice, uint64_t word_index,
                         const uint64_t *words, uint64_t n_words, Qcow2L2Order order)
    QIMG_MUST_CHECK;

/* Writes the L1 entry, as qcow2_l2_store. Under alloc_lock. */
QimgErrno qcow2_l1_store(Qcow2 *q, uint64_t l1_index, uint64_t entry, bool data_first)
    QIMG_MUST_CHECK;

/* Copies a table of @n_bytes that does not change, past the cache, to the place at
 * @to_offset, which is not in use yet, without @cleared_bits in each word. Not synced.
 * Errors: of the storage, -ENOMEM. */
QimgErrno qcow2_copy_table(Qcow2 *q, QimgIoPurpose purpose, uint64_t from_offset,
                           uint64_t to_offset, uint64_t n_bytes, uint64_t cleared_bits)
    QIMG_MUST_CHECK;

/* Drops the cached slices of a table of @n_bytes whose clusters were freed, or are about
 * to hold another. No request may still use them. */
void qcow2_forget_table(Qcow2 *q, TableKind kind, uint64_t host_offset, uint64_t n_bytes);
