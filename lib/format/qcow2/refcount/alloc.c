/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The reserve: clusters that are counted and zeros, durably, before their use (W1). A
 * fill costs one sync; so its size grows with use, up to a bound, the most that a dying
 * process leaks. */
#include "format/qcow2/refcount/alloc.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/trace.h"
#include "codec/qcow2-refcounts.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc-state.h"
#include "format/qcow2/refcount/refcount.h"

Qcow2Alloc *
qcow2_alloc_new(void)
{
    Qcow2Alloc *alloc = g_new0(Qcow2Alloc, 1);

    qimg_mutex_init(&alloc->lock, QIMG_RANK_ALLOC);
    return alloc;
}

void
qcow2_alloc_free(Qcow2Alloc *alloc)
{
    if (!alloc)
        return;
    g_free(alloc->refcount_table);
    qimg_mutex_clear(&alloc->lock);
    g_free(alloc);
}

QimgMutex *
qcow2_alloc_lock(Qcow2 *q)
{
    return &q->alloc->lock;
}

QimgErrno
qcow2_begin_change(Qcow2 *q)
{
    return qimg_format_activate(&q->base, &q->alloc->lock, &q->alloc->is_active);
}

bool
qcow2_has_begun_changes(const Qcow2 *q)
{
    return atomic_load(&q->alloc->is_active);
}

/* Zeroes free clusters, in a file extended behind them, and then counts them, so that
 * they are not found free; in this order: without room, nothing was counted. The caller
 * syncs. */
static QimgErrno
claim(Qcow2 *q, QimgClusters run)
{
    unsigned bits = q->geometry.cluster_bits;
    uint64_t start = run.first_cluster << bits;
    uint64_t end = start + (run.n_clusters << bits);
    uint64_t file_bytes = 0;
    QimgErrno err;

    if (run.first_cluster == 0 ||
        qimg_format_touches_metadata(&q->base, start, end - start))
        return qcow2_mark_corrupt(q, QIMG_RULE_REFCOUNT_TOO_LOW, start);
    err = qimg_storage_get_size(q->base.file, &file_bytes);
    if (!err && start < file_bytes)
        err = qimg_storage_zero(q->base.file, QIMG_IO_RESERVE, qimg_host(start),
                                qimg_min_u64(end, file_bytes) - start);
    if (!err && end > file_bytes)
        err = qimg_storage_set_size(q->base.file, end);
    return err ? err : qcow2_refcount_add(q, run, 1);
}

/* Like claim, for as much as a device has room for. */
static QimgErrno
claim_some(Qcow2 *q, QimgClusters *run)
{
    for (;;) {
        QimgErrno err = claim(q, *run);

        if (err != -ENOSPC || run->n_clusters == 1)
            return err;
        run->n_clusters /= 2;
    }
}

/* Fills the empty reserve, from several places if free clusters are scattered: the cost
 * is in the sync. */
static QimgErrno
qcow2_refill(Qcow2 *q)
{
    uint64_t n_wanted =
        qimg_max_u64(qcow2_alloc_next_bytes(q) >> q->geometry.cluster_bits, 1);
    uint64_t n_found = 0;
    uint64_t from = q->alloc->search_from;
    QimgErrno err = 0;

    while (n_found < n_wanted && q->alloc->n_reserve < QCOW2_MAX_RESERVED_RUNS) {
        QimgClusters run;

        err = qcow2_refcount_find_free(q, from, n_wanted - n_found, &run);
        if (!err)
            err = claim_some(q, &run);
        if (err)
            break;
        q->alloc->reserve[q->alloc->n_reserve++] = run;
        n_found += run.n_clusters;
        from = run.first_cluster + run.n_clusters;
    }
    if (q->alloc->n_reserve == 0)
        return err;
    /* Pending entries are written after a sync in any case. */
    err = qimg_format_is_behind(&q->base) ? 0 : qimg_storage_sync(q->base.file);
    if (err) {
        while (q->alloc->n_reserve > 0)
            qcow2_alloc_undo(q, q->alloc->reserve[--q->alloc->n_reserve]);
        return err;
    }
    q->alloc->search_from = from;
    q->alloc->next_reserve_bytes = (n_wanted << q->geometry.cluster_bits) * 2;
    return 0;
}

QimgErrno
qcow2_alloc(Qcow2 *q, uint64_t n_max, QimgClusters *out)
{
    QimgClusters *run = &q->alloc->reserve[0];
    QimgErrno err = q->alloc->n_reserve == 0 ? qcow2_refill(q) : 0;

    if (err)
        return err;
    *out = (QimgClusters){run->first_cluster, qimg_min_u64(n_max, run->n_clusters)};
    run->first_cluster += out->n_clusters;
    run->n_clusters -= out->n_clusters;
    QIMG_TRACE3(allocate, q->base.file->path, out->first_cluster, out->n_clusters);
    if (run->n_clusters == 0)
        memmove(run, run + 1, --q->alloc->n_reserve * sizeof *run);
    return 0;
}

/* Finds @n contiguous free clusters. */
static QimgErrno
find_together(Qcow2 *q, uint64_t n, uint64_t *first_cluster_out)
{
    uint64_t from = q->alloc->search_from;
    uint64_t n_together = 0; /* free clusters before @from */

    /* A search never finds more than a new block leaves free. */
    if (n >=
        qcow2_refcounts_per_block(q->geometry.cluster_bits, q->header.refcount_order))
        return qcow2_refcount_make_room(q, n, first_cluster_out);
    /* A run may cross blocks, at whose ends a search stops. */
    while (n_together < n) {
        QimgClusters run;
        QimgErrno err = qcow2_refcount_find_free(q, from, n - n_together, &run);

        if (err)
            return err;
        n_together =
            run.first_cluster == from ? n_together + run.n_clusters : run.n_clusters;
        from = run.first_cluster + run.n_clusters;
    }
    *first_cluster_out = from - n;
    return 0;
}

QimgErrno
qcow2_alloc_exactly(Qcow2 *q, uint64_t n, uint64_t *first_cluster_out)
{
    QimgErrno err = find_together(q, n, first_cluster_out);

    if (!err)
        err = claim(q, (QimgClusters){*first_cluster_out, n});
    if (err)
        return err;
    err = qimg_storage_sync(q->base.file);
    if (err)
        qcow2_alloc_undo(q, (QimgClusters){*first_cluster_out, n});
    return err;
}

void
qcow2_alloc_undo(Qcow2 *q, QimgClusters run)
{
    if (qcow2_refcount_add(q, run, -1) == 0)
        qcow2_alloc_search_from(q, run.first_cluster);
}

void
qcow2_alloc_search_from(Qcow2 *q, uint64_t cluster)
{
    q->alloc->search_from = qimg_min_u64(q->alloc->search_from, cluster);
}

uint64_t
qcow2_alloc_next_bytes(const Qcow2 *q)
{
    return qimg_reserve_bytes(&q->base, q->alloc->next_reserve_bytes);
}

/* Truncates the file behind its last used cluster. */
static QimgErrno
cut_file(Qcow2 *q, uint64_t min_file_bytes)
{
    uint64_t file_bytes = 0, last_cluster = 0, end;
    QimgErrno err = qimg_storage_get_size(q->base.file, &file_bytes);

    if (!err)
        err = qcow2_refcount_find_last(
            q, qimg_div_round_up(file_bytes, q->geometry.cluster_bytes), &last_cluster);
    if (err)
        return err;
    end = qimg_max_u64((last_cluster + 1) << q->geometry.cluster_bits, min_file_bytes);
    if (end >= file_bytes)
        return 0;
    err = qimg_storage_set_size(q->base.file, end);
    if (!err)
        atomic_store_explicit(&q->base.file_end_bytes, end, memory_order_relaxed);
    return err;
}

QimgErrno
qcow2_alloc_release_reserve(Qcow2 *q, uint64_t min_file_bytes)
{
    QimgErrno err = 0;

    while (q->alloc->n_reserve > 0 && !err) {
        QimgClusters run = q->alloc->reserve[--q->alloc->n_reserve];

        err = qcow2_refcount_add(q, run, -1);
        if (err == -ERANGE) {
            /* A damaged table referred to the place before it was free. */
            qimg_format_report(&q->base, QIMG_RULE_REFCOUNT_TOO_LOW,
                               run.first_cluster << q->geometry.cluster_bits);
            err = 0;
        }
        qcow2_alloc_search_from(q, run.first_cluster);
    }
    q->alloc->next_reserve_bytes = 0;
    return err ? err : cut_file(q, min_file_bytes);
}
