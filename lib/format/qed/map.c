/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest offset → run. No lock and no allocation on a cache hit. Spec: qed section 2. */
#include "format/qed/map.h"

#include "base/checked.h"
#include "format/qed/place.h"
#include "format/table-map.h"

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

/* QimgTableShape.map_in_slice. */
static QimgErrno
qed_map_in_slice(QimgFormat *format, uint64_t l2_table_offset,
                 const QimgTablePlace *place, QimgRun *run_out, bool *at_end_out)
{
    Qed *qed = (Qed *)format;
    table_autoslice slice = {0};
    QimgErrno err = qimg_format_pin(format, TABLE_L2,
                                    qed_slice_offset(l2_table_offset, place->l2_index),
                                    TABLE_SLICE_WORDS, &slice);

    if (err)
        return err;
    *run_out = qed_scan(qed, &slice, place->index_in_slice, place->n_entries,
                        place->in_cluster_bytes);
    *at_end_out = run_out->length_bytes + place->in_cluster_bytes ==
                  (TABLE_SLICE_WORDS - place->index_in_slice) << qed->header.cluster_bits;
    return 0;
}

/* QimgTableShape.check_l2_offset. */
static QimgRule
qed_check_l2_offset(QimgFormat *format, uint64_t l2_table_offset)
{
    return qed_is_place_for_table((Qed *)format, l2_table_offset) ? QIMG_RULE_OK
                                                                  : QIMG_RULE_QED_TABLE;
}

static QimgTableShape
qed_shape(const Qed *qed)
{
    return (QimgTableShape){
        .cluster_bits = qed->header.cluster_bits,
        .l1_shift = qed->l1_shift,
        .l2_entry_words = 1,
        .l2_slice_words = TABLE_SLICE_WORDS,
        .l1_offset_mask = UINT64_MAX,
        .check_l2_offset = qed_check_l2_offset,
        .map_in_slice = qed_map_in_slice,
    };
}

QimgErrno
qed_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
        uint64_t length_bytes, QimgRun *run_out)
{
    QimgTableShape shape = qed_shape((const Qed *)format);

    return qimg_map_tables(format, view, &shape, guest_offset.v, length_bytes, run_out);
}

void
qed_will_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
             TableKind level)
{
    QimgTableShape shape = qed_shape((const Qed *)format);

    qimg_will_map_tables(format, view, &shape, guest_offset.v, level);
}
