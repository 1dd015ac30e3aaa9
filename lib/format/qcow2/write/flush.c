/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Syncing, and the frees that were pending for it (W3). */

#include "format/qcow2/write/flush.h"

#include <errno.h>

#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"
#include "format/qcow2/refcount/refcount.h"
#include "format/qcow2/tables/tables.h"

/* Runs freed before other threads get the allocator. */
#define RUNS_AT_ONCE 64u

void
qcow2_forget_clusters(Qcow2 *q, QimgClusters run)
{
    unsigned bits = q->geometry.cluster_bits;

    for (uint64_t c = run.first_cluster; c < run.first_cluster + run.n_clusters; c++) {
        if (!qimg_format_touches_metadata(&q->base, c << bits, 1))
            continue;
        qimg_format_metadata_remove(&q->base, c << bits, 1);
        qcow2_forget_table(q, TABLE_L2, c << bits, q->geometry.cluster_bytes);
        qcow2_forget_table(q, TABLE_L1, c << bits, q->geometry.cluster_bytes);
    }
    qcow2_alloc_search_from(q, run.first_cluster);
    qimg_storage_discard(q->base.file, QIMG_IO_RESERVE,
                         qimg_host(run.first_cluster << bits), run.n_clusters << bits);
}

/* Lowers the refcounts of one run, and returns which fell to 0. Each is lowered once:
 * without room, the rest stays pending for the next flush; after other errors it is
 * leaked. A refcount that is already 0 was wrong before: the cluster is left alone. Under
 * alloc_lock. */
static void
free_run(Qcow2 *q, QimgClusters run, GArray *freed)
{
    QimgErrno err = 0;

    while (!err && run.n_clusters > 0) {
        uint64_t n = 1;

        err = qcow2_refcount_add_some(q, run, -1, freed, &n);
        if (err == -ERANGE) /* one of them: nothing was changed */
            err = qcow2_refcount_add_some(q, (QimgClusters){run.first_cluster, 1}, -1,
                                          freed, &n);
        if (err == -ERANGE) {
            qimg_format_report(&q->base, QIMG_RULE_REFCOUNT_TOO_LOW,
                               run.first_cluster << q->geometry.cluster_bits);
            err = 0;
            n = 1;
        }
        if (!err)
            run = (QimgClusters){run.first_cluster + n, run.n_clusters - n};
    }
    if (err && qimg_is_lack_of_space(err))
        qcow2_free_later(q, run);
}

/* Frees all runs of @list, which no durable entry refers to any more and no request uses.
 * Runs that cannot be freed are leaked. */
static void
free_runs(Qcow2 *q, const GArray *list)
{
    g_autoptr(GArray) freed = g_array_new(FALSE, FALSE, sizeof(QimgClusters));

    for (guint i = 0; i < list->len;) {
        QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));

        for (unsigned n = 0; n < RUNS_AT_ONCE && i < list->len; n++, i++) {
            g_array_set_size(freed, 0);
            free_run(q, g_array_index(list, QimgClusters, i), freed);
            for (guint j = 0; j < freed->len; j++)
                qcow2_forget_clusters(q, g_array_index(freed, QimgClusters, j));
        }
    }
}

QimgErrno
qcow2_flush(QimgFormat *format)
{
    Qcow2 *q = (Qcow2 *)format;
    g_autoptr(GArray) list = NULL;
    QimgErrno err;

    if (!qcow2_has_begun_changes(q)) /* a sync before the first change may have failed */
        return atomic_load(&format->file->sync_error);
    list = qcow2_pending_take(q); /* their entries were replaced before the sync begins */
    err = qimg_format_sync(format);
    if (!list)
        return err;
    if (!err)
        qimg_gate_wait_for_requests(format->gate);
    if (!err && !atomic_load(&q->base.broken))
        free_runs(q, list);
    qcow2_pending_end(q);
    return err;
}

QimgErrno
qcow2_flush_all(Qcow2 *q)
{
    QimgErrno err = qcow2_flush(&q->base);

    if (err)
        return err;
    return qcow2_pending_wait(q) ? 0 : -ENOSPC;
}

bool
qcow2_wants_flush(QimgFormat *format)
{
    return qcow2_pending_is_much((Qcow2 *)format);
}
