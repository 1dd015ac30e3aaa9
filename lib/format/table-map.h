/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest offset → run, for formats with two levels of tables, each read in slices that are
 * aligned in their table. The format adds the meaning of its entries. */
#pragma once

#include "format/format.h"
#include "format/run.h"
#include "format/table-place.h"

/* The tables of a layer. */
typedef struct {
    unsigned cluster_bits;
    unsigned l1_shift;       /* turns a guest offset into an L1 index */
    unsigned l2_entry_words; /* of an entry of an L2 table */
    unsigned l2_slice_words; /* a power of two */
    uint64_t l1_offset_mask; /* the offset in an L1 entry */

    /* The rule that the offset of an L2 table breaks, or QIMG_RULE_OK. */
    QimgRule (*check_l2_offset)(QimgFormat *format, uint64_t l2_table_offset);

    /* The run that begins at @place, as far as one slice tells. *@at_end_out: it reaches
     * the slice's end, so that the next slice may continue it. Errors: as
     * QimgDriver.map. */
    QimgErrno (*map_in_slice)(QimgFormat *format, uint64_t l2_table_offset,
                              const QimgTablePlace *place, QimgRun *run_out,
                              bool *at_end_out);
} QimgTableShape;

static inline uint64_t
qimg_entries_per_slice(const QimgTableShape *shape)
{
    return shape->l2_slice_words / shape->l2_entry_words;
}

/* The place of [@guest_offset, + @length_bytes). */
static inline QimgTablePlace
qimg_place_of(const QimgTableShape *shape, uint64_t guest_offset, uint64_t length_bytes)
{
    return qimg_table_place(guest_offset, length_bytes, shape->cluster_bits,
                            shape->l1_shift, qimg_entries_per_slice(shape));
}

/* The host offset of the slice with the entry at @place. */
static inline uint64_t
qimg_slice_offset(const QimgTableShape *shape, uint64_t l2_table_offset,
                  const QimgTablePlace *place)
{
    return l2_table_offset + (place->l2_index - place->index_in_slice) *
                                 shape->l2_entry_words * sizeof(uint64_t);
}

/* QimgDriver.map. */
QimgErrno qimg_map_tables(QimgFormat *format, const QimgView *view,
                          const QimgTableShape *shape, uint64_t guest_offset,
                          uint64_t length_bytes, QimgRun *run_out) QIMG_MUST_CHECK;

/* QimgDriver.will_map. */
void qimg_will_map_tables(QimgFormat *format, const QimgView *view,
                          const QimgTableShape *shape, uint64_t guest_offset,
                          TableKind level);
