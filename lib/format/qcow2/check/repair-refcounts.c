/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The refcounts of a repair. R2 and R4: see repair.c. */

#include "format/qcow2/check/repair-refcounts.h"

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-refcounts.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/refcount/alloc-state.h"

/* ---- planning ---- */

/* Whether a cluster that block @index counts has a reference. */
bool
qcow2_repair_is_range_used(const Qcow2Repair *r, uint64_t index)
{
    uint64_t first = index * r->per_block;
    uint64_t end = qimg_min_u64(first + r->per_block, r->counts.n_words);

    for (uint64_t c = first; c < end; c++)
        if (qcow2_counts_get(&r->counts, c) != 0)
            return true;
    return false;
}

/* The first cluster from @first to below @end without a reference. */
static bool
find_unused(const Qcow2Repair *r, uint64_t first, uint64_t end, uint64_t *cluster_out)
{
    for (uint64_t c = first; c < qimg_min_u64(end, r->counts.n_words); c++) {
        if (qcow2_counts_get(&r->counts, c) == 0) {
            *cluster_out = c;
            return true;
        }
    }
    return false;
}

/* Chooses a place for the missing block @index: in its own range, so that it needs no
 * other block, or, if that is full (R4: or unknown), behind the file. False if neither is
 * possible. */
static bool
find_place(const Qcow2Repair *r, uint64_t index, uint64_t *cluster_out)
{
    uint64_t first = index * r->per_block;
    uint64_t first_unknown = r->is_partial ? r->counts.n_clusters : 0;

    return find_unused(r, qimg_max_u64(first, first_unknown), first + r->per_block,
                       cluster_out) ||
           find_unused(r, qimg_max_u64(r->counts.n_clusters, first + r->per_block),
                       r->counts.n_words, cluster_out);
}

bool
qcow2_repair_take_run(Qcow2Repair *r, uint64_t n, uint64_t *first_out)
{
    uint64_t first = r->counts.n_clusters;

    for (uint64_t c = first; c < r->counts.n_words && c - first < n; c++)
        if (qcow2_counts_get(&r->counts, c) != 0)
            first = c + 1;
    if (!qimg_range_fits(first, n, r->counts.n_words))
        return false;
    for (uint64_t c = first; c < first + n; c++)
        qcow2_counts_take(&r->counts, c);
    *first_out = first;
    return true;
}

QimgRule
qcow2_repair_plan_blocks(Qcow2Repair *r)
{
    for (uint64_t i = 0; i * r->per_block < r->counts.n_words; i++) {
        Qcow2NewBlock block = {.index = i};

        if (i < r->q->alloc->n_refcount_table_entries &&
            r->q->alloc->refcount_table[i] != 0)
            continue;
        if (!qcow2_repair_is_range_used(r, i))
            continue;
        if (i >= r->q->alloc->n_refcount_table_entries ||
            !find_place(r, i, &block.cluster))
            return QIMG_RULE_REFTABLE_TOO_SMALL;
        qcow2_counts_take(&r->counts, block.cluster);
        g_array_append_val(r->new_blocks, block);
    }
    return QIMG_RULE_OK;
}

/* Whether all counts fit in the image's refcounts. */
bool
qcow2_repair_do_counts_fit(const Qcow2Repair *r)
{
    uint64_t max = qcow2_refcount_max(r->order);

    if (max > UINT32_MAX / 2) /* counts are never that large */
        return true;
    for (uint64_t c = 0; c < r->counts.n_words; c++)
        if (qcow2_counts_get(&r->counts, c) > max)
            return false;
    return true;
}

/* ---- refcounts ---- */

/* The new refcount of @cluster, which now has @old: the count, up to the maximum. */
static uint64_t
wanted_refcount(const Qcow2Repair *r, uint64_t cluster, uint64_t old)
{
    uint64_t n = qcow2_counts_get(&r->counts, cluster);

    if (n == QCOW2_MAX_COUNT) /* that many, or more */
        n = qimg_max_u64(n, old);
    return qimg_min_u64(n, qcow2_refcount_max(r->order));
}

/* Corrects the entries of the block in memory, as far as @pass allows; returns whether
 * any changed. */
static bool
correct_block(Qcow2Repair *r, uint64_t index, Qcow2Pass pass)
{
    uint32_t order = r->order;
    bool is_changed = false;

    for (uint64_t i = 0; i < r->per_block; i++) {
        uint64_t cluster = index * r->per_block + i;
        uint64_t old = qcow2_refcount_decode(r->block, order, i);
        uint64_t wanted = wanted_refcount(r, cluster, old);

        if (pass == QCOW2_PASS_LOWER && old < qcow2_counts_get(&r->counts, cluster))
            r->n_too_low++;
        if (pass == QCOW2_PASS_RAISE ? wanted <= old : wanted >= old)
            continue;
        qcow2_refcount_encode(r->block, order, i, wanted);
        is_changed = true;
        if (pass == QCOW2_PASS_RAISE)
            r->n_raised++;
        else
            r->n_lowered++;
        if (wanted == 0 && r->freed && cluster < r->counts.n_clusters)
            qimg_clusters_append(r->freed, (QimgClusters){cluster, 1});
    }
    return is_changed;
}

static QimgErrno
write_block(Qcow2Repair *r, uint64_t host_offset)
{
    return qimg_storage_write(r->q->base.file, QIMG_IO_REFCOUNT, qimg_host(host_offset),
                              r->block, r->q->geometry.cluster_bytes);
}

/* Frees host space of the clusters that are free according to the block that was just
 * written, once that is durable. */
static QimgErrno
release_freed(Qcow2Repair *r)
{
    Qcow2 *q = r->q;
    unsigned bits = q->geometry.cluster_bits;
    QimgErrno err;

    if (!r->freed || r->freed->len == 0)
        return 0;
    err = qimg_storage_sync(q->base.file);
    for (guint i = 0; !err && i < r->freed->len; i++) {
        const QimgClusters *run = &g_array_index(r->freed, QimgClusters, i);

        qimg_storage_discard(q->base.file, QIMG_IO_RESERVE,
                             qimg_host(run->first_cluster << bits),
                             run->n_clusters << bits);
    }
    g_array_set_size(r->freed, 0);
    return err;
}

QimgErrno
qcow2_repair_correct_blocks(Qcow2Repair *r, Qcow2Pass pass)
{
    Qcow2 *q = r->q;

    for (uint64_t i = 0; i < q->alloc->n_refcount_table_entries; i++) {
        QimgErrno err = qimg_task_step(r->task, i, q->alloc->n_refcount_table_entries);

        if (err)
            return err;
        if (q->alloc->refcount_table[i] == 0) {
            if (pass == QCOW2_PASS_LOWER && qcow2_repair_is_range_used(r, i))
                r->n_too_low++;
            continue;
        }
        err = qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT,
                                qimg_host(q->alloc->refcount_table[i]), r->block,
                                q->geometry.cluster_bytes);
        if (!err && correct_block(r, i, pass))
            err = write_block(r, q->alloc->refcount_table[i]);
        if (!err)
            err = release_freed(r);
        if (err)
            return err;
    }
    return 0;
}

/* Raises the counts of block @index to at least the stored refcounts, as far as known. */
static void
settle_range(Qcow2Repair *r, uint64_t index, bool has_block, bool is_rebuilding)
{
    uint64_t first = index * r->per_block;

    for (uint64_t i = 0; i < r->per_block && first + i < r->counts.n_clusters; i++) {
        uint64_t least =
            has_block ? qcow2_refcount_decode(r->block, r->q->header.refcount_order, i)
                      : is_rebuilding;

        if (least > qcow2_counts_get(&r->counts, first + i))
            qcow2_counts_set(&r->counts, first + i, least);
    }
}

QimgErrno
qcow2_repair_settle(Qcow2Repair *r, bool is_rebuilding)
{
    Qcow2 *q = r->q;

    for (uint64_t i = 0; i * r->per_block < r->counts.n_clusters; i++) {
        uint64_t host_offset =
            i < q->alloc->n_refcount_table_entries ? q->alloc->refcount_table[i] : 0;
        /* A block that overlaps another structure is no longer valid. */
        bool has_block =
            host_offset != 0 &&
            !(is_rebuilding &&
              qcow2_counts_get_use(&r->counts, host_offset >> q->geometry.cluster_bits));

        if (has_block) {
            QimgErrno err =
                qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT, qimg_host(host_offset),
                                  r->block, q->geometry.cluster_bytes);

            if (err == -ENOMEM || (err && !is_rebuilding))
                return err;
            has_block = !err;
        }
        settle_range(r, i, has_block, is_rebuilding);
    }
    return 0;
}

QimgErrno
qcow2_repair_write_blocks(Qcow2Repair *r)
{
    Qcow2 *q = r->q;
    QimgErrno err = 0;

    for (guint i = 0; !err && i < r->new_blocks->len; i++) {
        const Qcow2NewBlock *block = &g_array_index(r->new_blocks, Qcow2NewBlock, i);

        memset(r->block, 0, q->geometry.cluster_bytes);
        (void)correct_block(r, block->index, QCOW2_PASS_RAISE);
        err = write_block(r, block->cluster << q->geometry.cluster_bits);
    }
    return err;
}

/* Writes the missing blocks, then the table's entries for them (R2). */
QimgErrno
qcow2_repair_add_blocks(Qcow2Repair *r)
{
    Qcow2 *q = r->q;
    QimgErrno err = 0;

    if (r->new_blocks->len == 0)
        return 0;
    err = qcow2_repair_write_blocks(r);
    if (!err)
        err = qimg_storage_sync(q->base.file);
    for (guint i = 0; !err && i < r->new_blocks->len; i++) {
        const Qcow2NewBlock *block = &g_array_index(r->new_blocks, Qcow2NewBlock, i);
        uint64_t host_offset = block->cluster << q->geometry.cluster_bits;
        qimg_be64 entry = qimg_be64_set(host_offset);

        err = qimg_storage_write(
            q->base.file, QIMG_IO_REFCOUNT_TABLE,
            qimg_host(q->header.refcount_table_offset + block->index * sizeof entry),
            &entry, sizeof entry);
        if (!err)
            q->alloc->refcount_table[block->index] = host_offset;
    }
    return err;
}
