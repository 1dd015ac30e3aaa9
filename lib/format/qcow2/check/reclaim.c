/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finds the reserve (refcount/alloc.c) of a process that died: clusters at the end of the
 * file that are counted, but not referred to. The format has no mark for them, so three
 * conditions are checked, the cheap ones first:
 *
 * L1  The last counted cluster is zeros, and counted once. The last one of an image that
 *     was closed seldom is, unless it was preallocated.
 *
 * L2  The references can be counted in little time and memory.
 *
 * L3  The count finds no flaw, and the header nothing that may own clusters in an unknown
 *     way.
 *
 * The tables as read may be newer than those on the disk, which may still refer to
 * clusters that were replaced shortly before the process died: the file is synced before
 * a refcount is lowered (W3). */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qcow2/check/reclaim.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/zeros.h"
#include "format/qcow2/count/count.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/count/refcount-bulk.h"
#include "format/qcow2/refcount/alloc-state.h"
#include "format/qcow2/refcount/refcount.h"
#include "format/qcow2/write/flush.h"

#define MAX_CLUSTERS    (UINT64_C(1) << 22) /* of the file: 16 MiB for each array */
#define MAX_TABLE_BYTES (256 * QIMG_MIB)    /* limit of the tables that a count reads */

/* L1. Sets *@last_cluster_out if it returns true. */
static bool
has_sign(Qcow2 *q, uint64_t *last_cluster_out)
{
    unsigned bits = q->geometry.cluster_bits;
    uint64_t n_clusters =
        qimg_div_round_up(q->alloc->first_file_bytes, q->geometry.cluster_bytes);
    uint64_t refcount = 0, start, n_bytes;
    g_autofree uint8_t *bytes = g_try_malloc(q->geometry.cluster_bytes);

    if (!bytes || qcow2_refcount_find_last(q, n_clusters, last_cluster_out) != 0 ||
        *last_cluster_out == 0 ||
        qcow2_refcount_get(q, *last_cluster_out, &refcount) != 0 || refcount != 1)
        return false;
    start = *last_cluster_out << bits;
    n_bytes = qimg_min_u64(q->geometry.cluster_bytes, q->alloc->first_file_bytes - start);
    return qimg_storage_read(q->base.file, QIMG_IO_RESERVE, qimg_host(start), bytes,
                             n_bytes) == 0 &&
           memcmp(bytes, qimg_zeros, n_bytes) == 0;
}

/* L2. */
static bool
is_cheap(const Qcow2 *q)
{
    const QimgSnapshots *snapshots = q->base.snapshots;
    uint64_t n_tables = q->base.active.n_l1_entries;

    for (unsigned i = 0; i < snapshots->n; i++)
        n_tables += snapshots->items[i].view.n_l1_entries;
    return q->alloc->first_file_bytes >> q->geometry.cluster_bits <= MAX_CLUSTERS &&
           qimg_min_u64(n_tables << q->geometry.cluster_bits,
                        q->alloc->first_file_bytes) <= MAX_TABLE_BYTES;
}

/* Replaces the refcounts in @stored by 1 for each cluster to be freed, else 0; returns
 * the number to be freed, or 0 if a refcount is too low. Clusters before those that can
 * be a reserve are unknown, and stay. */
static uint64_t
choose(const Qcow2 *q, const Qcow2Counts *counts, Qcow2Counts *stored,
       uint64_t last_cluster)
{
    uint64_t n_max = qimg_max_u64(QIMG_MAX_RESERVE_BYTES >> q->geometry.cluster_bits, 1);
    uint64_t n_chosen = 0;

    for (uint64_t c = 0; c < stored->n_words; c++) {
        uint64_t n_references = qcow2_counts_get(counts, c);

        if (qcow2_counts_get(stored, c) < n_references)
            return 0;
        stored->words[c] = n_references == 0 && stored->words[c] == 1 &&
                           c <= last_cluster && last_cluster - c < n_max;
        n_chosen += stored->words[c];
    }
    return n_chosen;
}

/* Frees the clusters that @chosen counts, @n_chosen. */
static QimgErrno
free_chosen(Qcow2 *q, const Qcow2Counts *chosen, uint64_t n_chosen, uint64_t last_cluster)
{
    g_autoptr(GArray) freed = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    QimgErrno err = qimg_storage_sync(q->base.file);

    if (!err)
        err = qcow2_refcount_add_counts(q, chosen, -1, freed);
    for (guint i = 0; i < freed->len; i++)
        qcow2_forget_clusters(q, g_array_index(freed, QimgClusters, i));
    if (err)
        return err;
    g_message("%s: a process that wrote to it has died; %" PRIu64
              " clusters that it had reserved are free again",
              q->base.file->path, n_chosen);
    /* The dead process extended the file: the end of writing may cut it. */
    if (last_cluster + 1 >=
        qimg_div_round_up(q->alloc->first_file_bytes, q->geometry.cluster_bytes)) {
        err = qcow2_refcount_find_last(q, last_cluster, &last_cluster);
        if (!err)
            q->alloc->first_file_bytes = (last_cluster + 1) << q->geometry.cluster_bits;
    }
    return err;
}

QimgErrno
qcow2_reclaim_reserve(Qcow2 *q)
{
    const Qcow2CountOptions options = {.counts_stale_bitmaps = true};
    Qcow2Counts counts, stored;
    uint64_t last_cluster, n_chosen;
    QimgErrno err;

    if (!has_sign(q, &last_cluster))
        return 0;
    if (!is_cheap(q)) {
        g_message("%s: a process that died may have left reserved clusters at its end; "
                  "it is too large to look for them now (run qimg check -r leaks while "
                  "it is not in use)",
                  q->base.file->path);
        return 0;
    }
    /* Optional: if the count fails, the clusters stay. */
    err = qcow2_count_references(q, &options, &counts);
    if (err || counts.n_problems > 0 || counts.n_unread > 0 ||
        counts.are_refcounts_ruined || counts.has_unknown_owner ||
        qcow2_counts_get(&counts, last_cluster) > 0) {
        qcow2_counts_clear(&counts);
        return 0;
    }
    if (qcow2_refcount_load_all(q, &stored) == 0) {
        n_chosen = choose(q, &counts, &stored, last_cluster);
        if (n_chosen > 0)
            err = free_chosen(q, &stored, n_chosen, last_cluster);
    }
    qcow2_counts_clear(&stored);
    qcow2_counts_clear(&counts);
    return err;
}
