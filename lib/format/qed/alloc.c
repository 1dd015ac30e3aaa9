/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clusters at the end of the file, taken from a reserve (E2). A fill costs one sync; so
 * its size grows with use, up to a bound. */
#include "format/qed/alloc.h"

#include <errno.h>

#include "base/checked.h"
#include "format/qed/header-io.h"

/* Extends the reserve to at least @n_min clusters. */
static QimgErrno
qed_refill(Qed *qed, uint64_t n_min)
{
    unsigned bits = qed->header.cluster_bits;
    uint64_t n_wanted =
        qimg_max_u64(qimg_reserve_bytes(&qed->base, qed->next_reserve_bytes) >> bits,
                     qimg_max_u64(n_min, 1));
    uint64_t end = qed->next_cluster + n_wanted;
    QimgErrno err;

    if (end > (uint64_t)INT64_MAX >> bits)
        return -EFBIG;
    err = qed_set_need_check(qed, true); /* E1 */
    /* The content of a truncated cluster at the file's end is unused, and must become
     * zeros. */
    if (!err && qed->end_cluster << bits < qed->first_file_bytes)
        err = qimg_storage_set_size(qed->base.file, qed->end_cluster << bits);
    if (!err)
        err = qimg_storage_set_size(qed->base.file, end << bits);
    /* Pending entries are written after a sync in any case. */
    if (!err && !qimg_format_is_behind(&qed->base))
        err = qimg_storage_sync(qed->base.file);
    if (err)
        return err;
    qed->end_cluster = end;
    qed->next_reserve_bytes = (n_wanted << bits) * 2;
    return 0;
}

/* Takes up to @n_max of the returned clusters. */
static bool
take_returned(Qed *qed, uint64_t n_max, QimgClusters *out)
{
    QimgClusters *last;

    if (qed->returned->len == 0)
        return false;
    last = &g_array_index(qed->returned, QimgClusters, qed->returned->len - 1);
    out->n_clusters = qimg_min_u64(n_max, last->n_clusters);
    last->n_clusters -= out->n_clusters;
    out->first_cluster = last->first_cluster + last->n_clusters;
    if (last->n_clusters == 0)
        g_array_set_size(qed->returned, qed->returned->len - 1);
    return true;
}

QimgErrno
qed_alloc(Qed *qed, uint64_t n_max, QimgClusters *out)
{
    QimgErrno err = 0;

    if (take_returned(qed, n_max, out))
        return 0;
    if (qed->next_cluster == qed->end_cluster)
        err = qed_refill(qed, 1);
    if (err)
        return err;
    *out = (QimgClusters){qed->next_cluster,
                          qimg_min_u64(n_max, qed->end_cluster - qed->next_cluster)};
    qed->next_cluster += out->n_clusters;
    return 0;
}

QimgErrno
qed_alloc_exactly(Qed *qed, uint64_t n, uint64_t *first_cluster_out)
{
    QimgErrno err =
        qed->end_cluster - qed->next_cluster < n ? qed_refill(qed, n) : (QimgErrno)0;

    if (err)
        return err;
    *first_cluster_out = qed->next_cluster;
    qed->next_cluster += n;
    return 0;
}

void
qed_alloc_undo(Qed *qed, QimgClusters run)
{
    unsigned bits = qed->header.cluster_bits;

    /* Zeros again, durably (E2), or lost: an error shows at the next use. */
    if (qimg_storage_zero(qed->base.file, QIMG_IO_RESERVE,
                          qimg_host(run.first_cluster << bits),
                          run.n_clusters << bits) == 0 &&
        qimg_storage_sync(qed->base.file) == 0)
        g_array_append_val(qed->returned, run);
}

QimgErrno
qed_cut_file(Qed *qed, uint64_t end_bytes)
{
    QimgErrno err = qimg_storage_set_size(qed->base.file, end_bytes);

    /* Afterwards: a concurrent look-up of the end has stored the old one again. */
    if (!err)
        atomic_store_explicit(&qed->base.file_end_bytes, end_bytes, memory_order_relaxed);
    return err;
}

QimgErrno
qed_alloc_release_reserve(Qed *qed)
{
    uint64_t end_bytes, size_bytes = 0;
    QimgErrno err;

    for (guint i = 0; i < qed->returned->len;) {
        const QimgClusters *run = &g_array_index(qed->returned, QimgClusters, i);

        if (run->first_cluster + run->n_clusters != qed->next_cluster) {
            i++;
            continue;
        }
        qed->next_cluster = run->first_cluster;
        g_array_remove_index_fast(qed->returned, i);
        i = 0;
    }
    end_bytes = qed->next_cluster == qed->first_cluster
                    ? qed->first_file_bytes
                    : qed->next_cluster << qed->header.cluster_bits;
    err = qimg_storage_get_size(qed->base.file, &size_bytes);
    if (err || size_bytes <= end_bytes)
        return err;
    qed->end_cluster = qed->next_cluster;
    qed->next_reserve_bytes = 0;
    return qed_cut_file(qed, end_bytes);
}
