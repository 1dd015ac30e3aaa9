/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Look-up and creation of L2 tables, for writers. */
#include "format/qed/tables.h"

#include "base/checked.h"
#include "format/qed/alloc.h"
#include "format/qed/header-io.h"
#include "format/qed/place.h"

QimgErrno
qed_find_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
{
    table_autoslice slice = {0};
    QimgErrno err = qimg_format_pin(
        &qed->base, TABLE_L1, qed_slice_offset(qed->header.l1_table_offset, l1_index),
        TABLE_SLICE_WORDS, &slice);

    if (err)
        return err;
    *offset_out = table_slice_get(&slice, l1_index % TABLE_SLICE_WORDS);
    if (*offset_out != 0 && !qed_is_place_for_table(qed, *offset_out))
        return qed_refuse(qed, QIMG_RULE_QED_TABLE, *offset_out);
    return 0;
}

static QimgErrno
store_l1_entry(Qed *qed, uint64_t l1_index, uint64_t entry)
{
    uint64_t slice_offset = qed_slice_offset(qed->header.l1_table_offset, l1_index);
    table_autoslice slice = {0};
    QimgErrno err = qimg_format_pin_to_change(&qed->base, TABLE_L1, slice_offset,
                                              TABLE_SLICE_WORDS, &slice);

    return err ? err
               : qimg_format_store_words(
                     &qed->base, &(QimgTableChange){
                                     .purpose = QIMG_IO_L1,
                                     .slice_offset = slice_offset,
                                     .slice = &slice,
                                     .word_index = l1_index % TABLE_SLICE_WORDS,
                                     .words = &entry,
                                     .n_words = 1,
                                     .entry_words = 1,
                                     .data_first = qimg_format_is_behind(&qed->base),
                                 });
}

/* Makes an empty table from the reserve's zeros (E2). Under alloc_lock. */
static QimgErrno
qed_make_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
{
    uint64_t n_bytes = qed_table_bytes(&qed->header);
    uint64_t first_cluster, offset;
    QimgErrno err = qed_alloc_exactly(qed, qed->header.table_clusters, &first_cluster);

    if (err)
        return err;
    offset = first_cluster << qed->header.cluster_bits;
    err = qimg_format_metadata_add(&qed->base, offset, n_bytes);
    if (!err)
        err = store_l1_entry(qed, l1_index, offset);
    if (err) {
        qimg_format_metadata_remove(&qed->base, offset, n_bytes);
        /* The entry may have been in the file for a moment. */
        if (!atomic_load(&qed->base.broken) && qimg_storage_sync(qed->base.file) == 0)
            qed_alloc_undo(qed,
                           (QimgClusters){first_cluster, qed->header.table_clusters});
        return err;
    }
    *offset_out = offset;
    return 0;
}

QimgErrno
qed_ensure_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
{
    QimgErrno err = qed_find_l2_table(qed, l1_index, offset_out);

    if (err || *offset_out != 0)
        return err;
    QIMG_LOCK_SCOPE(&qed->alloc_lock);
    err = qed_find_l2_table(qed, l1_index, offset_out);
    if (err || *offset_out != 0)
        return err;
    return qed_make_l2_table(qed, l1_index, offset_out);
}

QimgErrno
qed_check_entry(Qed *qed, uint64_t entry)
{
    if (entry == QED_ENTRY_UNALLOCATED || entry == QED_ENTRY_ZERO)
        return 0;
    if (!qed_is_place_for_cluster(qed, entry))
        return qed_refuse(qed, QIMG_RULE_QED_DATA, entry);
    if (qimg_format_touches_metadata(&qed->base, entry, qed->base.cluster_bytes))
        return qed_refuse(qed, QIMG_RULE_WRITE_ON_METADATA, entry);
    return 0;
}
