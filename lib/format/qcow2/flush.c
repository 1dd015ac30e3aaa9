/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What waits for a flush: references that were replaced (W3). */
#include <errno.h>

#include "base/checked.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/qcow2.h"

/* So much may wait before a flush is due that nobody asked for. */
#define MAX_WAITING_RUNS  4096u
#define MAX_WAITING_BYTES (256 * QIMG_MIB)
/* How many runs are freed without letting others to the allocator. */
#define RUNS_AT_ONCE 64u

void
qcow2_free_later(Qcow2 *q, QimgClusters run)
{
    QIMG_LOCK_SCOPE(&q->pending_lock);

    qcow2_clusters_append(q->pending, run);
    q->n_pending_clusters += run.n_clusters;
    atomic_store_explicit(&q->wants_flush,
                          q->pending->len > MAX_WAITING_RUNS ||
                              q->n_pending_clusters > MAX_WAITING_BYTES >>
                                  q->geometry.cluster_bits,
                          memory_order_relaxed);
}

/* The clusters of the image file that a sound entry refers to, perhaps none. */
static QimgClusters
clusters_of_entry(const Qcow2 *q, uint64_t l2_entry)
{
    const Qcow2Geometry *g = &q->geometry;
    uint64_t host_offset = l2_entry & QCOW2_OFFSET_MASK;

    if (l2_entry & QCOW2_L2_COMPRESSED) {
        QimgL2Entry e = qcow2_l2_decode_compressed(g, l2_entry);
        uint64_t first, end;

        if (e.kind != QIMG_L2_STREAM)
            return (QimgClusters){0};
        /* The sectors that the entry names, not the bytes. Spec: qcow2 section 5. */
        first = qimg_align_down(e.host_offset, QIMG_SECTOR_BYTES) >> g->cluster_bits;
        end = ((e.host_offset + e.stream_bytes - 1) >> g->cluster_bits) + 1;
        return (QimgClusters){first, end - first};
    }
    if (host_offset && !g->has_data_file)
        return (QimgClusters){host_offset >> g->cluster_bits, 1};
    return (QimgClusters){0};
}

void
qcow2_free_entry_later(Qcow2 *q, uint64_t l2_entry)
{
    QimgClusters run = clusters_of_entry(q, l2_entry);

    if (run.n_clusters > 0)
        qcow2_free_later(q, run);
}

QimgErrno
qcow2_check_entry(Qcow2 *q, uint64_t word, uint64_t bitmap, uint64_t guest_offset)
{
    QimgRule rule = qcow2_l2_check_for_change(&q->geometry, word, bitmap, guest_offset);
    QimgClusters run = {0};

    if (!rule)
        run = clusters_of_entry(q, word);
    if (run.n_clusters > 0 && qimg_format_touches_metadata(
                                  &q->base, run.first_cluster << q->geometry.cluster_bits,
                                  run.n_clusters << q->geometry.cluster_bits))
        rule = QIMG_RULE_WRITE_ON_METADATA;
    return rule ? qcow2_mark_corrupt(q, rule, word & QCOW2_OFFSET_MASK) : 0;
}

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
    q->search_from = qimg_min_u64(q->search_from, run.first_cluster);
    qimg_storage_discard(q->base.file, QIMG_IO_RESERVE,
                         qimg_host(run.first_cluster << bits), run.n_clusters << bits);
}

/* Lowers the refcounts of one run, and tells which fell to 0. Each is lowered once: what
 * there was no room for waits for the next flush, the rest is leaked. A refcount that is
 * 0 already was wrong before: the cluster is left alone. Under alloc_lock. */
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

/* Frees all runs of @list, which nothing durable refers to any more and no request uses.
 * What cannot be freed is leaked. */
static void
free_runs(Qcow2 *q, const GArray *list)
{
    g_autoptr(GArray) freed = g_array_new(FALSE, FALSE, sizeof(QimgClusters));

    for (guint i = 0; i < list->len;) {
        QIMG_LOCK_SCOPE(&q->alloc_lock);

        for (unsigned n = 0; n < RUNS_AT_ONCE && i < list->len; n++, i++) {
            g_array_set_size(freed, 0);
            free_run(q, g_array_index(list, QimgClusters, i), freed);
            for (guint j = 0; j < freed->len; j++)
                qcow2_forget_clusters(q, g_array_index(freed, QimgClusters, j));
        }
    }
}

/* The list of what waits, NULL if nothing does; end_freeing is due in the end. */
static GArray *
take_pending(Qcow2 *q)
{
    QIMG_LOCK_SCOPE(&q->pending_lock);
    GArray *list = q->pending;

    if (list->len == 0)
        return NULL;
    q->pending = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    q->n_pending_clusters = 0;
    q->n_freeing++;
    atomic_store_explicit(&q->wants_flush, false, memory_order_relaxed);
    return list;
}

static void
end_freeing(Qcow2 *q)
{
    QIMG_LOCK_SCOPE(&q->pending_lock);

    if (--q->n_freeing == 0)
        qimg_cond_broadcast(&q->freed);
}

QimgErrno
qcow2_flush(QimgFormat *format)
{
    Qcow2 *q = (Qcow2 *)format;
    g_autoptr(GArray) list = NULL;
    QimgErrno err = 0;

    if (!atomic_load(&q->is_active)) /* a sync before the first change may have failed */
        return atomic_load(&format->file->sync_error);
    list = take_pending(q); /* their entries were replaced before the sync begins */
    if (format->data_file)  /* first: spec qcow2-write section 12 */
        err = qimg_storage_sync(format->data_file);
    if (!err)
        err = qimg_storage_sync(format->file);
    if (!list)
        return err;
    if (!err)
        qimg_gate_wait_for_requests(format->gate);
    if (!err && !atomic_load(&q->base.broken))
        free_runs(q, list);
    end_freeing(q);
    return err;
}

QimgErrno
qcow2_flush_all(Qcow2 *q)
{
    QimgErrno err = qcow2_flush(&q->base);

    if (err)
        return err;
    QIMG_LOCK_SCOPE(&q->pending_lock);
    while (q->n_freeing > 0)
        qimg_cond_wait(&q->freed, &q->pending_lock);
    return q->pending->len > 0 ? -ENOSPC : 0;
}

bool
qcow2_wants_flush(QimgFormat *format)
{
    return atomic_load_explicit(&((Qcow2 *)format)->wants_flush, memory_order_relaxed);
}
