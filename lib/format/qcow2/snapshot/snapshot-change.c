/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Taking, deleting and renaming snapshots, and reverting to one. Spec: qcow2-write
 * section 7.
 *
 * A snapshot is one more L1 table that refers to the L2 tables of the disk: the cost is
 * in raising, or lowering, the refcounts of everything that they refer to. The gate is
 * closed throughout, so the tables do not change.
 *
 * S1  The image is marked dirty (version 3) before the first refcount is changed, and
 *     clean when all is done: an open in between repairs refcounts and COPIED flags from
 *     the tables, which at any moment are those before or those after the change.
 *
 * S2  Refcounts are raised, durably, before the header refers to the counted clusters;
 *     they are lowered after it has ceased to. Without the dirty bit (version 2) an
 *     interrupted change leaves leaks, and COPIED flags that a check finds, but nothing
 *     that a write could damage: a flag is cleared before two disks share the cluster,
 *     and set after only one is left.
 *
 * S3  All clusters are allocated, and all refcounts known to have room, before S1.
 *
 * S4  The caller's task can cancel a change while it counts, before S1; after that, the
 *     change is completed. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qcow2/snapshot/snapshot-change.h"

#include <errno.h>
#include <limits.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/scratch.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/bitmap/resize-bitmaps.h"
#include "format/qcow2/count/count.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/count/flags.h"
#include "format/qcow2/count/refcount-bulk.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/layer/qcow2.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/snapshot/snapshot-table.h"
#include "format/qcow2/tables/overlap.h"
#include "format/qcow2/tables/tables.h"
#include "format/qcow2/write/flush.h"

/* Prepares each of the changes; takes alloc_lock itself. A pending drop would still be
 * counted: an unshared cluster could be taken for shared. */
static QimgErrno
change_prepare(Qcow2 *q)
{
    QimgErrno err;

    if (q->geometry.has_data_file) /* it would have to hold several disks */
        return -EOPNOTSUPP;
    err = qcow2_begin_change(q);
    return err ? err : qcow2_flush_all(q);
}

/* Counts a tree without a flaw, whose refcounts can be changed by @sign. */
static QimgErrno
count_tree(Qcow2 *q, const QimgView *view, bool with_l1, int sign, const QimgTask *task,
           Qcow2Counts *out)
{
    const Qcow2CountOptions options = {.task = task};
    QimgErrno err = qcow2_count_tree(q, view, with_l1, &options, out);

    if (!err && out->n_problems > 0) {
        const Qcow2Problem *first = &g_array_index(out->problems, Qcow2Problem, 0);

        qimg_format_report(&q->base, first->rule, first->host_offset);
        return -EIO;
    }
    if (!err)
        err = qcow2_refcount_check_counts(q, out, sign);
    if (err == -ERANGE && sign < 0) {
        qimg_format_report(&q->base, QIMG_RULE_REFCOUNT_TOO_LOW, view->l1_table_offset.v);
        return -EIO;
    }
    return err;
}

/* Whether the refcounts of everything in the tree of @counts are at least the references
 * of all tables. Otherwise lowering them could free clusters that others use. */
static QimgErrno
check_other_uses(Qcow2 *q, const Qcow2Counts *counts, const QimgTask *task)
{
    const Qcow2CountOptions options = {.task = task};
    Qcow2Counts all;
    QimgErrno err = qcow2_count_references(q, &options, &all);

    for (uint64_t c = 0; !err && c < all.n_words; c++)
        if (qcow2_counts_get(counts, c) == 0)
            all.words[c] = 0;
    if (!err)
        err = qcow2_refcount_check_counts(q, &all, -1);
    if (err == -ERANGE) {
        qimg_format_report(&q->base, QIMG_RULE_REFCOUNT_TOO_LOW, 0);
        err = -EIO;
    }
    qcow2_counts_clear(&all);
    return err;
}

/* Writes the L1 table of @view to @to_offset, without COPIED flags: other users of the
 * same tables must not write to them. The range behind its end is zeros (W1). */
static QimgErrno
copy_l1_table(Qcow2 *q, const QimgView *view, uint64_t to_offset)
{
    return qcow2_copy_table(q, QIMG_IO_L1, view->l1_table_offset.v, to_offset,
                            (uint64_t)view->n_l1_entries * 8, QCOW2_ENTRY_COPIED);
}

static uint64_t
l1_clusters(const Qcow2 *q, uint64_t n_entries)
{
    return qimg_div_round_up(n_entries * 8, q->geometry.cluster_bytes);
}

/* Corrects the flags of the active tables after refcounts fell. */
static QimgErrno
correct_flags(Qcow2 *q)
{
    Qcow2Counts refcounts;
    QimgErrno err = qcow2_refcount_load_all(q, &refcounts);

    if (!err)
        err = qcow2_correct_copied_flags(q, &q->base.active, &refcounts);
    qcow2_counts_clear(&refcounts);
    return err;
}

/* Lowers refcounts, frees clusters that fell to 0, corrects the flags, and ends the
 * change. A failure here leaves the image dirty, to be repaired: the change itself is
 * done, so freed clusters stay free. */
static QimgErrno
finish(Qcow2 *q, const Qcow2Counts *gone)
{
    g_autoptr(GArray) freed = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    QimgErrno err = gone ? qcow2_refcount_add_counts(q, gone, -1, freed) : 0;

    for (guint i = 0; i < freed->len; i++)
        qcow2_forget_clusters(q, g_array_index(freed, QimgClusters, i));
    if (!err && gone)
        err = correct_flags(q);
    if (!err)
        err = qimg_storage_sync(q->base.file);
    return err ? err : qcow2_set_dirty(q, false);
}

/* A failure of finish is no failure of the change. */
static QimgErrno
finish_or_leave_dirty(Qcow2 *q, const Qcow2Counts *gone)
{
    QimgErrno err = finish(q, gone);

    if (err)
        qcow2_keep_dirty(q);
    if (err)
        g_warning("%s: clusters that snapshots used could not be freed: %s (they are "
                  "leaked; run qimg check -r leaks)",
                  q->base.file->path, g_strerror(-err));
    return 0;
}

/* Switches to the table, or frees its clusters from @first_cluster on. */
static QimgErrno
switch_snapshot_table(Qcow2 *q, const GByteArray *table, uint64_t first_cluster,
                      unsigned n_snapshots, unsigned removed_place)
{
    uint64_t host_offset = first_cluster << q->geometry.cluster_bits;
    uint64_t n_bytes = table->len;
    QimgErrno err = qimg_format_metadata_add(&q->base, host_offset, n_bytes);

    if (!err)
        err = qcow2_snapshot_table_switch(q, n_bytes > 0 ? host_offset : 0, n_snapshots,
                                          removed_place);
    if (err)
        qimg_format_metadata_remove(&q->base, host_offset, n_bytes);
    return err;
}

/* ---- taking ---- */

/* Undoes the raising of refcounts if possible: else the image stays dirty. */
static void
undo_create(Qcow2 *q, const Qcow2Counts *counts, QimgClusters run, bool is_raised)
{
    if (atomic_load(&q->base.broken))
        return;
    if (is_raised &&
        (qcow2_refcount_add_counts(q, counts, -1, NULL) || correct_flags(q))) {
        qcow2_keep_dirty(q);
        return;
    }
    qcow2_alloc_undo(q, run);
    if (!qimg_storage_sync(q->base.file))
        (void)!qcow2_set_dirty(q, false);
}

/* With the clusters of the L1 table's copy and of the snapshot table allocated. */
static QimgErrno
share_all(Qcow2 *q, const Qcow2Counts *counts, const GByteArray *table, QimgClusters run)
{
    unsigned bits = q->geometry.cluster_bits;
    uint64_t n_l1_clusters = l1_clusters(q, q->base.active.n_l1_entries);
    uint64_t l1_offset = run.first_cluster << bits;
    uint64_t l1_bytes = (uint64_t)q->base.active.n_l1_entries * 8;
    bool is_raised = false;
    QimgErrno err = qcow2_set_dirty(q, true);

    qcow2_forget_table(q, TABLE_L1, l1_offset, n_l1_clusters << bits);
    if (!err)
        err = copy_l1_table(q, &q->base.active, l1_offset);
    if (!err)
        err = qcow2_snapshot_table_write(q, table, l1_offset + (n_l1_clusters << bits));
    if (!err)
        err = qcow2_refcount_add_counts(q, counts, 1, NULL);
    is_raised = !err;
    if (!err)
        err = qcow2_correct_copied_flags(q, &q->base.active, NULL);
    if (!err)
        err = qimg_storage_sync(q->base.file);
    if (!err)
        err = qimg_format_metadata_add(&q->base, l1_offset, l1_bytes);
    if (!err)
        err = switch_snapshot_table(q, table, run.first_cluster + n_l1_clusters,
                                    q->header.n_snapshots + 1, UINT_MAX);
    if (err) {
        qimg_format_metadata_remove(&q->base, l1_offset, l1_bytes);
        undo_create(q, counts, run, is_raised);
    }
    return err;
}

QimgErrno
qcow2_create_snapshot(QimgFormat *format, const QimgNewSnapshot *snapshot,
                      const QimgTask *task)
{
    Qcow2 *q = (Qcow2 *)format;
    g_autoptr(GByteArray) table = NULL;
    QimgClusters run = {0};
    Qcow2Counts counts = {0};
    guint entry_start = 0;
    QimgErrno err = change_prepare(q);

    if (err)
        return err;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    err = count_tree(q, &format->active, false, 1, task, &counts);
    if (!err)
        err = qcow2_snapshot_table_load(q, &table);
    if (!err)
        err = qcow2_snapshot_table_append(q, table, snapshot, &entry_start);
    if (!err) {
        run.n_clusters = l1_clusters(q, format->active.n_l1_entries) +
                         qcow2_snapshot_table_clusters(q, table);
        err = qcow2_alloc_exactly(q, run.n_clusters, &run.first_cluster);
    }
    if (!err && format->active.n_l1_entries > 0)
        qcow2_snapshot_table_set_l1(table, entry_start,
                                    run.first_cluster << q->geometry.cluster_bits);
    if (!err)
        err = share_all(q, &counts, table, run);
    if (!err)
        err = finish_or_leave_dirty(q, NULL);
    qcow2_counts_clear(&counts);
    return err;
}

/* ---- deleting and renaming ---- */

/* Writes the changed table to new clusters and switches to it. */
static QimgErrno
replace_table(Qcow2 *q, const GByteArray *table, unsigned n_snapshots,
              unsigned removed_place)
{
    QimgClusters run = {0, qcow2_snapshot_table_clusters(q, table)};
    QimgErrno err = 0;

    if (run.n_clusters > 0) {
        err = qcow2_alloc_exactly(q, run.n_clusters, &run.first_cluster);
        if (err)
            return err;
        err = qcow2_snapshot_table_write(q, table,
                                         run.first_cluster << q->geometry.cluster_bits);
        if (!err)
            err = qimg_storage_sync(q->base.file);
    }
    if (!err)
        err = switch_snapshot_table(q, table, run.first_cluster, n_snapshots,
                                    removed_place);
    if (err && run.n_clusters > 0 && !atomic_load(&q->base.broken))
        qcow2_alloc_undo(q, run);
    return err;
}

QimgErrno
qcow2_delete_snapshot(QimgFormat *format, unsigned place, const QimgTask *task)
{
    Qcow2 *q = (Qcow2 *)format;
    g_autoptr(GByteArray) table = NULL;
    Qcow2Counts counts = {0};
    QimgErrno err = change_prepare(q);

    if (err)
        return err;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    err = count_tree(q, &format->snapshots->items[place].view, true, -1, task, &counts);
    if (!err)
        err = check_other_uses(q, &counts, task);
    if (!err)
        err = qcow2_snapshot_table_load(q, &table);
    if (!err)
        err = qcow2_snapshot_table_remove(table, place);
    if (!err)
        err = qcow2_set_dirty(q, true);
    if (!err) {
        err = replace_table(q, table, q->header.n_snapshots - 1, place);
        if (!err)
            err = finish_or_leave_dirty(q, &counts);
        else if (!atomic_load(&q->base.broken))
            (void)!qcow2_set_dirty(q, false);
    }
    qcow2_counts_clear(&counts);
    return err;
}

QimgErrno
qcow2_rename_snapshot(QimgFormat *format, unsigned place, const char *name)
{
    Qcow2 *q = (Qcow2 *)format;
    g_autoptr(GByteArray) table = NULL;
    QimgErrno err = change_prepare(q);

    if (err)
        return err;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    err = qcow2_snapshot_table_load(q, &table);
    if (!err)
        err = qcow2_snapshot_table_rename(table, place, name);
    return err ? err : replace_table(q, table, q->header.n_snapshots, UINT_MAX);
}

/* ---- reverting ---- */

/* Makes the header refer to the new L1 table and sets the disk's size, in one write. */
static QimgErrno
switch_disk(Qcow2 *q, uint64_t size_bytes, uint64_t l1_offset, uint32_t n_l1_entries)
{
    struct {
        qimg_be64 size_bytes;
        qimg_be32 crypt_method;
        qimg_be32 n_l1_entries;
        qimg_be64 l1_offset;
    } field = {
        qimg_be64_set(size_bytes),
        qimg_be32_set(q->header.crypt_method),
        qimg_be32_set(n_l1_entries),
        qimg_be64_set(l1_offset),
    };
    QimgErrno err =
        qcow2_write_header_field(q, QCOW2_HEADER_AT_SIZE, &field, sizeof field);

    if (err)
        return err;
    qcow2_header_to_change(q)->size_bytes = size_bytes;
    qcow2_header_to_change(q)->l1_table_offset = l1_offset;
    qcow2_header_to_change(q)->n_l1_entries = n_l1_entries;
    q->base.active.l1_table_offset = qimg_host(l1_offset);
    q->base.active.n_l1_entries = n_l1_entries;
    q->base.active.n_l1_entries_in_file = n_l1_entries;
    qimg_view_set_size_bytes(&q->base.active, size_bytes);
    return 0;
}

/* With the L1 table's clusters allocated. */
static QimgErrno
exchange(Qcow2 *q, const QimgView *view, uint32_t n_l1_entries, const Qcow2Counts *wanted,
         QimgClusters run)
{
    uint64_t l1_offset = run.first_cluster << q->geometry.cluster_bits;
    bool is_raised = false;
    QimgErrno err = qcow2_set_dirty(q, true);

    qcow2_forget_table(q, TABLE_L1, l1_offset,
                       run.n_clusters << q->geometry.cluster_bits);
    if (!err)
        err = copy_l1_table(q, view, l1_offset);
    if (!err)
        err = qcow2_refcount_add_counts(q, wanted, 1, NULL);
    is_raised = !err;
    /* Flags in snapshots' tables are ignored, and may be wrong. */
    if (!err)
        err = qcow2_correct_copied_flags(q, view, NULL);
    if (!err)
        err = qimg_storage_sync(q->base.file);
    if (!err)
        err = switch_disk(q, view->size_bytes, l1_offset, n_l1_entries);
    if (err)
        undo_create(q, wanted, run, is_raised);
    return err;
}

static QimgErrno
revert_disk(QimgFormat *format, unsigned place, const QimgTask *task)
{
    Qcow2 *q = (Qcow2 *)format;
    const QimgView *view = &format->snapshots->items[place].view;
    /* A disk of no bytes has a table, too: otherwise its cluster would be leaked. */
    uint64_t n_l1_entries = qimg_max_u64(
        1, qimg_max_u64(qcow2_geometry_l1_entries_for(&q->geometry, view->size_bytes),
                        view->n_l1_entries));
    Qcow2Counts wanted = {0}, gone = {0};
    QimgClusters run = {0, l1_clusters(q, n_l1_entries)};
    QimgErrno err;

    if (n_l1_entries > QCOW2_MAX_L1_BYTES / 8)
        return -EFBIG;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    err = count_tree(q, view, false, 1, task, &wanted);
    if (!err)
        err = count_tree(q, &format->active, true, -1, task, &gone);
    if (!err)
        err = check_other_uses(q, &gone, task);
    if (!err)
        err = qcow2_alloc_exactly(q, run.n_clusters, &run.first_cluster);
    if (!err)
        err = exchange(q, view, (uint32_t)n_l1_entries, &wanted, run);
    if (!err) {
        err = finish_or_leave_dirty(q, &gone);
        /* Other L2 tables are active now; without their list, no write is allowed. */
        if (qcow2_collect_metadata(q) || qcow2_tracker_add_metadata(q->tracker))
            err = qimg_format_break(&q->base, -EIO);
    }
    qcow2_counts_clear(&wanted);
    qcow2_counts_clear(&gone);
    return err;
}

QimgErrno
qcow2_revert_to_snapshot(QimgFormat *format, unsigned place, const QimgTask *task)
{
    Qcow2 *q = (Qcow2 *)format;
    uint64_t size_bytes = format->snapshots->items[place].view.size_bytes;
    Qcow2BitmapsResize *bitmaps = NULL;
    QimgErrno err = qcow2_prepare_bitmaps_resize(q, size_bytes, &bitmaps);

    if (!err)
        err = change_prepare(q);
    if (!err)
        err = revert_disk(format, place, task);
    if (err) {
        qcow2_abandon_bitmaps_resize(bitmaps);
        return err;
    }
    return qcow2_finish_bitmaps_resize(q, bitmaps);
}
