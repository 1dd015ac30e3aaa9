/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of pending frees. */

#include "format/qcow2/refcount/pending.h"

#include "base/checked.h"
#include "format/qcow2/layer/qcow2.h"

/* Pending runs and clusters after which a flush is due without a request: a share of the
 * disk, since pending clusters make the file grow. */
#define MAX_WAITING_RUNS  4096u
#define MAX_WAITING_BYTES (256 * QIMG_MIB)
#define MIN_WAITING_BYTES QIMG_MIB
#define WAITING_SHARE     8u

struct Qcow2Pending {
    QimgMutex lock;       /* rank QIMG_RANK_PENDING */
    GArray *list;         /* guarded by lock: QimgClusters */
    uint64_t n_clusters;  /* guarded by lock */
    unsigned n_taken;     /* guarded by lock: lists held by flushes */
    QimgCond ended;       /* n_taken has become 0 */
    _Atomic bool is_much; /* atomic, relaxed: a hint */
};

Qcow2Pending *
qcow2_pending_new(void)
{
    Qcow2Pending *p = g_new0(Qcow2Pending, 1);

    qimg_mutex_init(&p->lock, QIMG_RANK_PENDING);
    qimg_cond_init(&p->ended);
    p->list = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    return p;
}

void
qcow2_pending_free(Qcow2Pending *p)
{
    if (!p)
        return;
    g_array_unref(p->list);
    qimg_cond_clear(&p->ended);
    qimg_mutex_clear(&p->lock);
    g_free(p);
}

static uint64_t
max_waiting_clusters(const Qcow2 *q)
{
    uint64_t n_bytes =
        qimg_min_u64(qimg_max_u64(qimg_view_size_bytes(&q->base.active) / WAITING_SHARE,
                                  MIN_WAITING_BYTES),
                     MAX_WAITING_BYTES);

    return n_bytes >> q->geometry.cluster_bits;
}

void
qcow2_free_later(Qcow2 *q, QimgClusters run)
{
    Qcow2Pending *p = q->pending;
    QIMG_LOCK_SCOPE(&p->lock);

    qimg_clusters_append(p->list, run);
    p->n_clusters += run.n_clusters;
    atomic_store_explicit(&p->is_much,
                          p->list->len > MAX_WAITING_RUNS ||
                              p->n_clusters > max_waiting_clusters(q),
                          memory_order_relaxed);
}

GArray *
qcow2_pending_take(Qcow2 *q)
{
    Qcow2Pending *p = q->pending;
    QIMG_LOCK_SCOPE(&p->lock);
    GArray *list = p->list;

    if (list->len == 0)
        return NULL;
    p->list = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    p->n_clusters = 0;
    p->n_taken++;
    atomic_store_explicit(&p->is_much, false, memory_order_relaxed);
    return list;
}

void
qcow2_pending_end(Qcow2 *q)
{
    QIMG_LOCK_SCOPE(&q->pending->lock);

    if (--q->pending->n_taken == 0)
        qimg_cond_broadcast(&q->pending->ended);
}

bool
qcow2_pending_wait(Qcow2 *q)
{
    QIMG_LOCK_SCOPE(&q->pending->lock);

    while (q->pending->n_taken > 0)
        qimg_cond_wait(&q->pending->ended, &q->pending->lock);
    return q->pending->list->len == 0;
}

bool
qcow2_pending_is_much(const Qcow2 *q)
{
    return atomic_load_explicit(&q->pending->is_much, memory_order_relaxed);
}
