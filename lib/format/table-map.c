/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The walk from the L1 table to a slice of an L2 table. */
#include "format/table-map.h"

#include "base/checked.h"
#include "format/runs.h"
#include "format/table-file.h"

/* QimgMapStep: the run according to a single L1 slice or L2 slice. */
static QimgErrno
map_tables_step(QimgFormat *format, const QimgView *view, const void *user,
                uint64_t guest_offset, uint64_t length_bytes, QimgRun *run_out,
                bool *at_end_out)
{
    const QimgTableShape *shape = user;
    QimgTablePlace place = qimg_place_of(shape, guest_offset, length_bytes);
    uint64_t table_guest_bytes = UINT64_C(1) << shape->l1_shift;
    uint64_t in_table = guest_offset & (table_guest_bytes - 1);
    uint64_t entry, n_empty;
    QimgRule rule;
    QimgErrno err;

    *at_end_out = true;
    if (place.l1_index >= view->n_l1_entries) { /* only a snapshot's can be too short */
        *run_out = (QimgRun){.kind = QIMG_RUN_ZERO, .length_bytes = length_bytes};
        *at_end_out = false;
        return 0;
    }
    if (place.l1_index >= view->n_l1_entries_in_file) {
        *run_out =
            qimg_run_damaged(QIMG_RULE_L1_BEYOND_EOF, table_guest_bytes - in_table);
        return 0;
    }
    err = qimg_count_empty_l1(format, view, place.l1_index,
                              ((length_bytes - 1) >> shape->l1_shift) + 2,
                              shape->l1_offset_mask, &entry, &n_empty);
    if (err)
        return err;
    if (n_empty > 0) {
        *run_out = (QimgRun){.kind = QIMG_RUN_UNALLOCATED,
                             .length_bytes = (n_empty << shape->l1_shift) - in_table};
        return 0;
    }
    entry &= shape->l1_offset_mask;
    rule = shape->check_l2_offset(format, entry);
    if (rule) {
        *run_out = qimg_run_damaged(rule, table_guest_bytes - in_table);
        return 0;
    }
    *at_end_out = false;
    return shape->map_in_slice(format, entry, &place, run_out, at_end_out);
}

/* The offset of the L2 table at @l1_index; 0: there is none, or no usable one. */
static uint64_t
find_usable_table(QimgFormat *format, const QimgView *view, const QimgTableShape *shape,
                  uint64_t l1_index)
{
    uint64_t entry, n_empty;

    if (l1_index >= view->n_l1_entries_in_file ||
        qimg_count_empty_l1(format, view, l1_index, 1, shape->l1_offset_mask, &entry,
                            &n_empty) ||
        n_empty > 0)
        return 0;
    entry &= shape->l1_offset_mask;
    return shape->check_l2_offset(format, entry) ? 0 : entry;
}

/* QimgMapPeek. A walk over a large, nearly empty disk needs each table once, so the part
 * is neither swapped nor cached. */
static uint64_t
peek_tables(QimgFormat *format, const QimgView *view, const void *user,
            uint64_t guest_offset, uint64_t length_bytes)
{
    const QimgTableShape *shape = user;
    QimgTablePlace place = qimg_place_of(shape, guest_offset, length_bytes);
    uint64_t n_table = UINT64_C(1) << (shape->l1_shift - shape->cluster_bits);
    uint64_t l2_table_offset = find_usable_table(format, view, shape, place.l1_index);

    if (l2_table_offset == 0)
        return 0;
    return qimg_count_zero_entries(format,
                                   l2_table_offset + place.l2_index *
                                                         shape->l2_entry_words *
                                                         sizeof(uint64_t),
                                   qimg_min_u64(n_table - place.l2_index,
                                                length_bytes >> shape->cluster_bits),
                                   shape->l2_entry_words)
           << shape->cluster_bits;
}

QimgErrno
qimg_map_tables(QimgFormat *format, const QimgView *view, const QimgTableShape *shape,
                uint64_t guest_offset, uint64_t length_bytes, QimgRun *run_out)
{
    return qimg_map_by_steps(format, view, shape, guest_offset, length_bytes,
                             qimg_entries_per_slice(shape) << shape->cluster_bits,
                             map_tables_step, peek_tables, run_out);
}

void
qimg_will_map_tables(QimgFormat *format, const QimgView *view,
                     const QimgTableShape *shape, uint64_t guest_offset, TableKind level)
{
    QimgTablePlace place = qimg_place_of(shape, guest_offset, 1);
    uint64_t l2_table_offset;

    if (level == TABLE_L1) {
        qimg_will_read_l1(format, view, place.l1_index);
        return;
    }
    l2_table_offset = find_usable_table(format, view, shape, place.l1_index);
    if (l2_table_offset != 0)
        qimg_format_will_pin(format, TABLE_L2,
                             qimg_slice_offset(shape, l2_table_offset, &place),
                             shape->l2_slice_words);
}
