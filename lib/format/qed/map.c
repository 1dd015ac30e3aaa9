/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest offset → run. No lock and no allocation on a cache hit. Spec: qed section 2. */
#include "format/qed/map.h"

#include "base/checked.h"
#include "format/qed/place.h"
#include "format/runs.h"

/* The run of the entries from @index of the slice on that continue each other. */
static QimgRun
qed_scan(Qed *qed, const TableSlice *slice, uint64_t index, uint64_t n_max,
         uint64_t in_cluster_bytes)
{
    unsigned bits = qed->header.cluster_bits;
    uint64_t first = table_slice_get(slice, index);
    QimgRun run = {0};
    uint64_t n = 1;

    if (first == QED_ENTRY_UNALLOCATED) {
        run.kind = QIMG_RUN_UNALLOCATED;
        n = qimg_max_u64(table_slice_count_zeros(slice, index, n_max), 1);
    } else if (first == QED_ENTRY_ZERO) {
        run.kind = QIMG_RUN_ZERO;
        while (n < n_max && table_slice_get(slice, index + n) == QED_ENTRY_ZERO)
            n++;
    } else if (qed_is_place_for_cluster(qed, first)) {
        run.kind = QIMG_RUN_DATA;
        run.host_offset = qimg_host(first + in_cluster_bytes);
        while (n < n_max && table_slice_get(slice, index + n) == first + (n << bits) &&
               qed_is_place_for_cluster(qed, first + (n << bits)))
            n++;
    } else {
        run.kind = QIMG_RUN_DAMAGED;
        run.rule = QIMG_RULE_QED_DATA;
        while (n < n_max && table_slice_get(slice, index + n) > QED_ENTRY_ZERO &&
               !qed_is_place_for_cluster(qed, table_slice_get(slice, index + n)))
            n++;
    }
    run.length_bytes = (n << bits) - in_cluster_bytes;
    return run;
}

/* The run according to one slice of the L2 table at @table_offset. */
static QimgErrno
qed_map_in_table(Qed *qed, uint64_t table_offset, uint64_t guest_offset,
                 uint64_t length_bytes, QimgRun *run_out, bool *at_end_out)
{
    unsigned bits = qed->header.cluster_bits;
    uint64_t in_cluster = guest_offset & (qed->base.cluster_bytes - 1);
    uint64_t l2_index = qed_l2_index(qed, guest_offset);
    uint64_t in_slice = l2_index % TABLE_SLICE_WORDS;
    uint64_t n_max =
        qimg_min_u64(TABLE_SLICE_WORDS - in_slice,
                     qimg_div_round_up(qimg_min_u64(length_bytes, INT64_MAX) + in_cluster,
                                       qed->base.cluster_bytes));
    table_autoslice slice = {0};
    QimgErrno err =
        qimg_format_pin(&qed->base, TABLE_L2, qed_slice_offset(table_offset, l2_index),
                        TABLE_SLICE_WORDS, &slice);

    if (err)
        return err;
    *run_out = qed_scan(qed, &slice, in_slice, n_max, in_cluster);
    *at_end_out = run_out->length_bytes + in_cluster == (TABLE_SLICE_WORDS - in_slice)
                                                            << bits;
    return 0;
}

/* QimgMapStep. */
static QimgErrno
qed_map_step(QimgFormat *format, const QimgView *view, uint64_t guest_offset,
             uint64_t length_bytes, QimgRun *run_out, bool *at_end_out)
{
    Qed *qed = (Qed *)format;
    uint64_t l1_index = guest_offset >> qed->l1_shift;
    uint64_t table_guest_bytes = UINT64_C(1) << qed->l1_shift;
    uint64_t in_table = guest_offset & (table_guest_bytes - 1);
    uint64_t entry, n_empty;
    QimgErrno err;

    *at_end_out = true;
    if (l1_index >= view->n_l1_entries_in_file) {
        *run_out =
            qimg_run_damaged(QIMG_RULE_L1_BEYOND_EOF, table_guest_bytes - in_table);
        return 0;
    }
    err = qimg_count_empty_l1(format, view, l1_index,
                              ((length_bytes - 1) >> qed->l1_shift) + 2, UINT64_MAX,
                              &entry, &n_empty);
    if (err)
        return err;
    if (n_empty > 0) {
        *run_out = (QimgRun){.kind = QIMG_RUN_UNALLOCATED,
                             .length_bytes = (n_empty << qed->l1_shift) - in_table};
        return 0;
    }
    if (!qed_is_place_for_table(qed, entry)) {
        *run_out = qimg_run_damaged(QIMG_RULE_QED_TABLE, table_guest_bytes - in_table);
        return 0;
    }
    return qed_map_in_table(qed, entry, guest_offset, length_bytes, run_out, at_end_out);
}

/* QimgMapPeek. */
static uint64_t
qed_peek_unallocated(QimgFormat *format, const QimgView *view, uint64_t guest_offset,
                     uint64_t length_bytes)
{
    Qed *qed = (Qed *)format;
    uint64_t l1_index = guest_offset >> qed->l1_shift;
    uint64_t l2_index = qed_l2_index(qed, guest_offset);
    uint64_t entry, n_empty;

    if (l1_index >= view->n_l1_entries_in_file ||
        qimg_count_empty_l1(format, view, l1_index, 1, UINT64_MAX, &entry, &n_empty) ||
        n_empty > 0 || !qed_is_place_for_table(qed, entry))
        return 0;
    return qimg_count_zero_entries(
               format, entry + l2_index * sizeof(uint64_t),
               qimg_min_u64((UINT64_C(1) << qed->entry_bits) - l2_index,
                            length_bytes >> qed->header.cluster_bits),
               1)
           << qed->header.cluster_bits;
}

QimgErrno
qed_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
        uint64_t length_bytes, QimgRun *run_out)
{
    const Qed *qed = (const Qed *)format;

    return qimg_map_by_steps(format, view, guest_offset.v, length_bytes,
                             (uint64_t)TABLE_SLICE_WORDS << qed->header.cluster_bits,
                             qed_map_step, qed_peek_unallocated, run_out);
}

void
qed_will_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
             TableKind level)
{
    Qed *qed = (Qed *)format;
    uint64_t l1_index = guest_offset.v >> qed->l1_shift;
    uint64_t entry, n_empty;

    if (level == TABLE_L1) {
        qimg_will_read_l1(format, view, l1_index);
        return;
    }
    if (l1_index >= view->n_l1_entries_in_file ||
        qimg_count_empty_l1(format, view, l1_index, 1, UINT64_MAX, &entry, &n_empty) ||
        n_empty > 0 || !qed_is_place_for_table(qed, entry))
        return;
    qimg_storage_will_read(
        format->file,
        qimg_host(qed_slice_offset(entry, qed_l2_index(qed, guest_offset.v))),
        TABLE_SLICE_BYTES);
}
