/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Planning and publishing of writes: in place if the entry has an offset, else into new
 * clusters. Spec: qed section 4. */
#include "format/qed/write.h"

#include "base/checked.h"
#include "base/trace.h"
#include "format/qed/alloc.h"
#include "format/qed/place.h"
#include "format/qed/tables.h"

static bool
qed_is_data(uint64_t entry)
{
    return entry != QED_ENTRY_UNALLOCATED && entry != QED_ENTRY_ZERO;
}

/* Plans the part of the request for which one slice has consecutive clusters. A length of
 * 0: the request must be allocated. */
static QimgErrno
qed_plan_in_place(Qed *qed, const QimgTablePlace *p, uint64_t length_bytes,
                  QimgWritePlan *plan)
{
    unsigned bits = qed->header.cluster_bits;
    uint64_t in_cluster = p->in_cluster_bytes;
    uint64_t table_offset, first = 0, n = 0;
    table_autoslice slice = {0};
    QimgErrno err = qed_find_l2_table(qed, p->l1_index, &table_offset);

    *plan = (QimgWritePlan){.kind = QIMG_PLAN_IN_PLACE};
    if (err || table_offset == 0)
        return err;
    err =
        qimg_format_pin(&qed->base, TABLE_L2, qed_slice_offset(table_offset, p->l2_index),
                        TABLE_SLICE_WORDS, &slice);
    for (; !err && n < p->n_entries; n++) {
        uint64_t entry = table_slice_get(&slice, p->index_in_slice + n);

        if (!qed_is_data(entry) || (n > 0 && entry != first + (n << bits)))
            break;
        if (n == 0)
            first = entry;
        err = qed_check_entry(qed, entry);
    }
    if (err || n == 0)
        return err;
    plan->length_bytes = qimg_min_u64(length_bytes, (n << bits) - in_cluster);
    plan->host_offset = qimg_host(first + in_cluster);
    return 0;
}

/* The number of entries from the first one of the announced range on that are alike, and
 * not data: 0 if the write can be done in place. */
static QimgErrno
qed_look_at_entries(Qed *qed, const QimgTablePlace *p, const QimgWritePlan *plan,
                    uint64_t *entry_out, uint64_t *n_out)
{
    uint64_t n_max = (plan->inflight.end - p->cluster_start) >> qed->header.cluster_bits;
    uint64_t index = p->index_in_slice, n = 0;
    table_autoslice slice = {0};
    QimgErrno err =
        qimg_format_pin(&qed->base, TABLE_L2,
                        qed_slice_offset(plan->allocation.l2_table_offset, p->l2_index),
                        TABLE_SLICE_WORDS, &slice);

    if (err)
        return err;
    *entry_out = table_slice_get(&slice, index);
    while (n < n_max && !qed_is_data(*entry_out) &&
           table_slice_get(&slice, index + n) == *entry_out)
        n++;
    *n_out = n;
    return 0;
}

/* With the entries at @p announced: takes clusters for those of the same treatment. */
static QimgErrno
qed_plan_new_clusters(Qed *qed, const QimgTablePlace *p, uint64_t length_bytes,
                      QimgWritePlan *plan)
{
    QimgAllocation *a = &plan->allocation;
    unsigned bits = qed->header.cluster_bits;
    uint64_t in_cluster = p->in_cluster_bytes;
    uint64_t entry = 0, n_entries = 0, end;
    QimgClusters run;
    QimgErrno err = qed_ensure_l2_table(qed, p->l1_index, &a->l2_table_offset);

    if (!err)
        err = qed_look_at_entries(qed, p, plan, &entry, &n_entries);
    if (err || n_entries == 0)
        return err;
    qimg_mutex_lock(&qed->alloc_lock);
    err = qed_alloc(qed, n_entries, &run);
    qimg_mutex_unlock(&qed->alloc_lock);
    if (err)
        return err;
    QIMG_TRACE3(allocate, qed->base.file->path, run.first_cluster, run.n_clusters);
    end = p->cluster_start + (run.n_clusters << bits);
    a->l2_index = p->l2_index;
    a->n_clusters = run.n_clusters;
    a->is_new_cluster = a->is_zeroed = true;
    a->host_cluster_offset = run.first_cluster << bits;
    a->fill_start = a->clusters_start = p->cluster_start;
    a->fill_end = a->clusters_end = end;
    a->old_kind = entry == QED_ENTRY_ZERO ? QIMG_RUN_ZERO : QIMG_RUN_UNALLOCATED;
    plan->host_offset = qimg_host(a->host_cluster_offset + in_cluster);
    plan->length_bytes =
        qimg_min_u64(length_bytes, (run.n_clusters << bits) - in_cluster);
    return 0;
}

QimgErrno
qed_plan_write(QimgFormat *format, QimgGuestOffset guest_offset, uint64_t length_bytes,
               QimgWritePlan *plan_out)
{
    Qed *qed = (Qed *)format;
    QimgTablePlace place = qed_place_of(qed, guest_offset.v, length_bytes);
    QimgErrno err = qed_begin_change(qed);

    plan_out->length_bytes = 0;
    while (!err && plan_out->length_bytes == 0) {
        err = qed_plan_in_place(qed, &place, length_bytes, plan_out);
        if (err || plan_out->length_bytes > 0)
            break;
        qimg_plan_announce(format, &place, plan_out);
        err = qed_plan_new_clusters(qed, &place, length_bytes, plan_out);
        err = qimg_plan_settle(format, &place, plan_out, err);
        /* Nothing planned by either: another writer has allocated it meanwhile. */
    }
    return err;
}

/* Returns the plan's clusters; @was_written: entries may have been in the file for a
 * moment. */
static void
give_back(Qed *qed, const QimgAllocation *a, bool was_written)
{
    QimgClusters run = {a->host_cluster_offset >> qed->header.cluster_bits,
                        a->n_clusters};

    if (was_written &&
        (atomic_load(&qed->base.broken) || qimg_storage_sync(qed->base.file) != 0))
        return;
    QIMG_LOCK_SCOPE(&qed->alloc_lock);
    qed_alloc_undo(qed, run);
}

QimgErrno
qed_publish(QimgFormat *format, QimgWritePlan *plan)
{
    Qed *qed = (Qed *)format;
    const QimgAllocation *a = &plan->allocation;
    uint64_t slice_offset = qed_slice_offset(a->l2_table_offset, a->l2_index);
    uint64_t entries[TABLE_SLICE_WORDS];
    TableSlice slice = {0};
    QimgErrno err = qimg_format_pin_to_change(format, TABLE_L2, slice_offset,
                                              TABLE_SLICE_WORDS, &slice);

    for (uint64_t i = 0; i < a->n_clusters; i++)
        entries[i] = a->host_cluster_offset + (i << qed->header.cluster_bits);
    if (!err)
        err = qimg_format_store_words(
            format, &(QimgTableChange){
                        .purpose = QIMG_IO_L2,
                        .slice_offset = slice_offset,
                        .slice = &slice,
                        .word_index = a->l2_index % TABLE_SLICE_WORDS,
                        .words = entries,
                        .n_words = a->n_clusters,
                        .entry_words = 1,
                        .data_first = a->data_first || qimg_format_is_behind(format),
                    });
    table_slice_unpin(&slice);
    if (err)
        give_back(qed, a, true);
    inflight_end(format->inflight, &plan->inflight);
    return err;
}

void
qed_abandon(QimgFormat *format, QimgWritePlan *plan)
{
    give_back((Qed *)format, &plan->allocation, false);
    inflight_end(format->inflight, &plan->inflight);
}
