/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Planning and publishing of writes. A write is in place if its clusters (subclusters,
 * with extended entries) are allocated and no snapshot shares them; otherwise it is
 * planned into other clusters, and published by changing the entries. Spec: qcow2-write
 * section 3. */
#include "format/qcow2/write/write.h"

#include "base/checked.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/layer/qcow2.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"
#include "format/qcow2/tables/tables.h"
#include "format/qcow2/write/data-zeros.h"
#include "format/qcow2/write/old-entry.h"

/* How many bytes from @in_cluster_bytes on, of @n_bytes, can be written at the entry's
 * place: 0 if the first cannot. */
static uint64_t
count_in_place(const Qcow2Geometry *g, Qcow2L2Words e, uint64_t in_cluster_bytes,
               uint64_t n_bytes)
{
    uint32_t missing;
    uint64_t end;

    if ((e.word & QCOW2_L2_COMPRESSED) || !(e.word & QCOW2_ENTRY_COPIED) ||
        !qcow2_l2_has_cluster(g, e.word))
        return 0;
    if (!g->extended_l2)
        return e.word & QCOW2_L2_ZERO ? 0 : n_bytes;
    missing = ~(uint32_t)e.bitmap >> (in_cluster_bytes >> g->subcluster_bits);
    if (missing == 0)
        return n_bytes;
    end = ((in_cluster_bytes >> g->subcluster_bits) + (uint64_t)__builtin_ctz(missing))
          << g->subcluster_bits;
    return end <= in_cluster_bytes ? 0 : qimg_min_u64(n_bytes, end - in_cluster_bytes);
}

/* Checks that guest data may be written to [@host_offset, + @n_bytes) of the image. */
static QimgErrno
check_target(Qcow2 *q, uint64_t host_offset, uint64_t n_bytes)
{
    if (q->geometry.has_data_file)
        return 0;
    if (qimg_format_is_beyond_end(&q->base, host_offset + n_bytes - 1) &&
        qimg_format_is_beyond_end(&q->base, qimg_align_down(host_offset + n_bytes - 1,
                                                            q->geometry.cluster_bytes)))
        return qcow2_mark_corrupt(q, QIMG_RULE_DATA_BEYOND_EOF, host_offset);
    if (qimg_format_touches_metadata(&q->base, host_offset, n_bytes))
        return qcow2_mark_corrupt(q, QIMG_RULE_WRITE_ON_METADATA, host_offset);
    return 0;
}

/* Plans the part of the request for which one slice has consecutive, unshared clusters. A
 * length of 0: the request must be allocated. */
static QimgErrno
qcow2_plan_in_place(Qcow2 *q, const QimgTablePlace *p, uint64_t length_bytes,
                    QimgWritePlan *plan)
{
    const Qcow2Geometry *g = &q->geometry;
    uint64_t in_cluster = p->in_cluster_bytes;
    uint64_t table_offset, done = 0, host_offset = 0;
    bool is_private;
    Qcow2L2Slice slice = {0};
    QimgErrno err = qcow2_find_l2_table(q, p->l1_index, &table_offset, &is_private);

    if (err || !is_private)
        return err;
    err = qcow2_l2_pin(q, table_offset, p->l2_index, &slice);
    if (err)
        return err;
    for (uint64_t i = 0; i < p->n_entries && done < length_bytes; i++) {
        Qcow2L2Words e = qcow2_l2_get(q, &slice, p->l2_index + i);
        uint64_t at = i == 0 ? in_cluster : 0;
        uint64_t n_max = qimg_min_u64(length_bytes - done, g->cluster_bytes - at);
        uint64_t n = count_in_place(g, e, at, n_max);
        uint64_t host = (e.word & QCOW2_OFFSET_MASK) + at;
        QimgRule rule;

        if (n == 0 || (i > 0 && host != host_offset + done))
            break;
        rule = qcow2_l2_check_for_change(g, e.word, e.bitmap,
                                         p->cluster_start + (i << g->cluster_bits));
        if (rule) {
            table_slice_unpin(&slice.slice);
            return qcow2_mark_corrupt(q, rule, host);
        }
        if (i == 0)
            host_offset = host;
        done += n;
        if (n < n_max)
            break;
    }
    table_slice_unpin(&slice.slice);
    if (done == 0)
        return 0;
    plan->length_bytes = done;
    plan->host_offset = qimg_host(host_offset);
    return check_target(q, host_offset, done);
}

/* In a raw data file, which is the disk to its readers, a write in place must not follow
 * the zeros of a discard that has changed the entry meanwhile: until it is done the entry
 * stays. Spec: qcow2-write section 12. */
static QimgErrno
plan_in_raw_data_file(Qcow2 *q, const QimgTablePlace *p, uint64_t guest_offset,
                      uint64_t length_bytes, QimgWritePlan *plan)
{
    uint64_t end = p->cluster_start + p->n_entries * q->geometry.cluster_bytes;
    QimgErrno err;

    plan->kind = QIMG_PLAN_IN_PLACE_HELD;
    inflight_begin_shared(q->base.inflight, &plan->inflight, p->cluster_start, &end);
    length_bytes = qimg_min_u64(length_bytes, end - guest_offset);
    err = qcow2_plan_in_place(q, p, length_bytes, plan);
    if (err || plan->length_bytes == 0)
        inflight_end(q->base.inflight, &plan->inflight);
    return err;
}

/* ---- allocating -----------------------------------------------------------------------
 */

/* How an allocating write treats an entry. */
typedef enum {
    HOW_UNALLOCATED, /* nothing of the cluster is allocated: a new one, filled in part */
    HOW_ZERO,        /* the same, and it reads as zeros */
    HOW_REPLACE,     /* data elsewhere: a new one, filled completely */
    HOW_ADD,         /* the disk's own already: some subclusters, or (data file) all */
} How;

static How
how_to_allocate(const Qcow2Geometry *g, Qcow2L2Words e)
{
    bool is_ours = !(e.word & QCOW2_L2_COMPRESSED) && qcow2_l2_has_cluster(g, e.word) &&
                   (e.word & QCOW2_ENTRY_COPIED);

    if (g->has_data_file || (g->extended_l2 && is_ours))
        return HOW_ADD;
    if (e.word & QCOW2_L2_COMPRESSED)
        return HOW_REPLACE;
    if (g->extended_l2) {
        if ((uint32_t)e.bitmap != 0)
            return HOW_REPLACE;
        if (e.bitmap == 0)
            return HOW_UNALLOCATED;
        return e.bitmap == QCOW2_ALL_ZEROS ? HOW_ZERO : HOW_REPLACE;
    }
    if (e.word & QCOW2_L2_ZERO)
        return HOW_ZERO;
    return qcow2_l2_has_cluster(g, e.word) ? HOW_REPLACE : HOW_UNALLOCATED;
}

/* The disk's content at the subclusters of @mask, as a run kind of a plan. */
static QimgRunKind
old_kind_of(const Qcow2Geometry *g, Qcow2L2Words e, uint32_t mask)
{
    uint32_t zeros = (uint32_t)(e.bitmap >> 32), allocated = (uint32_t)e.bitmap;

    if (e.word & QCOW2_L2_COMPRESSED)
        return QIMG_RUN_DATA;
    if (!g->extended_l2)
        return e.word & QCOW2_L2_ZERO            ? QIMG_RUN_ZERO
               : qcow2_l2_has_cluster(g, e.word) ? QIMG_RUN_DATA
                                                 : QIMG_RUN_UNALLOCATED;
    if ((zeros & mask) == mask)
        return QIMG_RUN_ZERO;
    return ((zeros | allocated) & mask) == 0 ? QIMG_RUN_UNALLOCATED : QIMG_RUN_DATA;
}

/* Whether the place of a guest cluster in the data file is zeros, durably: the disk has
 * grown over it, and it was not written since. */
static bool
is_zeroed_in_data_file(const Qcow2 *q, Qcow2L2Words e, uint64_t cluster_start)
{
    return q->geometry.has_data_file && e.word == 0 && e.bitmap == 0 &&
           qcow2_data_zeros_has(q, cluster_start);
}

/* Plans a piece inside the cluster that the first entry has already (HOW_ADD): the
 * subclusters, or whole cluster, from the request's first byte to the next different
 * state. */
static void
plan_addition(const Qcow2 *q, const QimgTablePlace *p, Qcow2L2Words e,
              uint64_t length_bytes, QimgWritePlan *plan)
{
    const Qcow2Geometry *g = &q->geometry;
    QimgAllocation *a = &plan->allocation;
    uint64_t in_cluster = p->in_cluster_bytes;
    uint64_t end = qimg_min_u64(in_cluster + length_bytes, g->cluster_bytes);
    uint64_t unit_bytes = UINT64_C(1) << g->subcluster_bits;
    uint64_t host_cluster =
        g->has_data_file ? p->cluster_start : e.word & QCOW2_OFFSET_MASK;
    uint64_t first = in_cluster >> g->subcluster_bits;

    if (g->extended_l2 && !(e.word & QCOW2_L2_COMPRESSED)) {
        uint32_t allocated = (uint32_t)e.bitmap >> first;

        if (allocated) /* from there the write is in place */
            end = qimg_min_u64(end, (first + (uint64_t)__builtin_ctz(allocated))
                                        << g->subcluster_bits);
    }
    plan->length_bytes = end - in_cluster;
    plan->host_offset = qimg_host(host_cluster + in_cluster);
    a->fill_start = p->cluster_start + (first << g->subcluster_bits);
    a->fill_end = p->cluster_start + qimg_align_down(end + unit_bytes - 1, unit_bytes);
    a->n_clusters = 1;
    a->host_cluster_offset = host_cluster;
    if (is_zeroed_in_data_file(q, e, p->cluster_start)) {
        a->is_zeroed = true;
        a->clusters_start = p->cluster_start;
        a->clusters_end = p->cluster_start + g->cluster_bytes;
    }
    a->old_kind = old_kind_of(
        g, e,
        g->extended_l2 ? qcow2_subcluster_mask(g, a->fill_start - p->cluster_start,
                                               a->fill_end - p->cluster_start)
                       : 0);
}

/* Plans a piece into new clusters for the @n_entries entries from the first on, all
 * treated as @how. */
static QimgErrno
qcow2_plan_new_clusters(Qcow2 *q, const QimgTablePlace *p, How how, uint64_t n_entries,
                        uint64_t guest_offset, uint64_t length_bytes, QimgWritePlan *plan)
{
    const Qcow2Geometry *g = &q->geometry;
    QimgAllocation *a = &plan->allocation;
    uint64_t in_cluster = p->in_cluster_bytes;
    uint64_t unit_bytes =
        how == HOW_REPLACE ? g->cluster_bytes : UINT64_C(1) << g->subcluster_bits;
    QimgClusters run;
    QimgErrno err;

    qimg_mutex_lock(qcow2_alloc_lock(q));
    err = qcow2_alloc(q, n_entries, &run);
    qimg_mutex_unlock(qcow2_alloc_lock(q));
    if (err)
        return err;
    /* If entries of the image refer to free clusters, one may have been allocated
     * twice. */
    if (qimg_format_touches_metadata(&q->base, run.first_cluster << g->cluster_bits,
                                     run.n_clusters << g->cluster_bits))
        return qcow2_mark_corrupt(q, QIMG_RULE_REFCOUNT_TOO_LOW,
                                  run.first_cluster << g->cluster_bits);
    a->n_clusters = run.n_clusters;
    a->is_new_cluster = true;
    a->is_zeroed = true;
    a->host_cluster_offset = run.first_cluster << g->cluster_bits;
    plan->host_offset = qimg_host(a->host_cluster_offset + in_cluster);
    plan->length_bytes =
        qimg_min_u64(length_bytes, (run.n_clusters << g->cluster_bits) - in_cluster);
    a->fill_start = qimg_align_down(guest_offset, unit_bytes);
    a->fill_end =
        qimg_align_down(guest_offset + plan->length_bytes + unit_bytes - 1, unit_bytes);
    a->clusters_start = p->cluster_start;
    a->clusters_end = p->cluster_start + (run.n_clusters << g->cluster_bits);
    a->old_kind = how == HOW_UNALLOCATED ? QIMG_RUN_UNALLOCATED
                  : how == HOW_ZERO      ? QIMG_RUN_ZERO
                                         : QIMG_RUN_DATA;
    return 0;
}

/* Reads the first entry of the announced range, and counts the entries from there on with
 * the same treatment. *@how_out is set if *@n_out > 0; that is 0 if the write can be done
 * in place. */
static QimgErrno
qcow2_look_at_entries(Qcow2 *q, const QimgTablePlace *p, const QimgWritePlan *plan,
                      uint64_t in_cluster_bytes, Qcow2L2Words *first_out, How *how_out,
                      uint64_t *n_out)
{
    const Qcow2Geometry *g = &q->geometry;
    uint64_t n_max = (plan->inflight.end - p->cluster_start) >> g->cluster_bits;
    Qcow2L2Slice slice = {0};
    QimgErrno err =
        qcow2_l2_pin(q, plan->allocation.l2_table_offset, p->l2_index, &slice);

    *n_out = 0;
    for (uint64_t i = 0; i < n_max && !err; i++) {
        Qcow2L2Words e = qcow2_l2_get(q, &slice, p->l2_index + i);
        uint64_t at = i == 0 ? in_cluster_bytes : 0;

        if (count_in_place(g, e, at, 1) > 0)
            break;
        if (i == 0) {
            *first_out = e;
            *how_out = how_to_allocate(g, e);
        } else if (*how_out == HOW_ADD || how_to_allocate(g, e) != *how_out) {
            break;
        }
        err = qcow2_check_entry(q, e.word, e.bitmap,
                                p->cluster_start + (i << g->cluster_bits));
        *n_out = i + 1;
    }
    table_slice_unpin(&slice.slice);
    return err;
}

/* With the entries at @p announced: takes clusters for those of the same treatment, or
 * adds to the cluster of the first one. */
static QimgErrno
qcow2_plan_allocation(Qcow2 *q, const QimgTablePlace *p, uint64_t guest_offset,
                      uint64_t length_bytes, QimgWritePlan *plan)
{
    How how = HOW_ADD;
    uint64_t n_entries;
    Qcow2L2Words first = {0};
    QimgErrno err =
        qcow2_ensure_l2_table(q, p->l1_index, &plan->allocation.l2_table_offset);

    if (!err)
        err = qcow2_look_at_entries(q, p, plan, p->in_cluster_bytes, &first, &how,
                                    &n_entries);
    if (err || n_entries == 0)
        return err;
    plan->allocation.l2_index = p->l2_index;
    if (how != HOW_ADD)
        return qcow2_plan_new_clusters(q, p, how, n_entries, guest_offset, length_bytes,
                                       plan);
    plan_addition(q, p, first, length_bytes, plan);
    return check_target(q, plan->host_offset.v, plan->length_bytes);
}

QimgErrno
qcow2_plan_write(QimgFormat *format, QimgGuestOffset guest_offset, uint64_t length_bytes,
                 QimgWritePlan *plan_out)
{
    Qcow2 *q = (Qcow2 *)format;
    QimgTablePlace place = qcow2_place_of(q, guest_offset.v, length_bytes);
    QimgErrno err = qcow2_begin_change(q);

    plan_out->length_bytes = 0;
    while (!err && plan_out->length_bytes == 0) {
        *plan_out = (QimgWritePlan){.kind = QIMG_PLAN_IN_PLACE};
        if (q->base.has_raw_data_file)
            err =
                plan_in_raw_data_file(q, &place, guest_offset.v, length_bytes, plan_out);
        else
            err = qcow2_plan_in_place(q, &place, length_bytes, plan_out);
        if (err || plan_out->length_bytes > 0)
            break;
        qimg_plan_announce(format, &place, plan_out);
        err = qcow2_plan_allocation(q, &place, guest_offset.v, length_bytes, plan_out);
        err = qimg_plan_settle(format, &place, plan_out, err);
        /* Nothing planned by either: another writer has allocated it meanwhile. */
    }
    return err;
}

/* The new value of the entry @old for cluster number @i of the plan. */
static Qcow2L2Words
new_entry(const Qcow2 *q, const QimgWritePlan *plan, uint64_t i, Qcow2L2Words old)
{
    const Qcow2Geometry *g = &q->geometry;
    const QimgAllocation *a = &plan->allocation;
    uint64_t cluster_start = plan->inflight.start + (i << g->cluster_bits);
    uint64_t start = qimg_max_u64(a->fill_start, cluster_start) - cluster_start;
    uint64_t end =
        qimg_min_u64(a->fill_end, cluster_start + g->cluster_bytes) - cluster_start;
    Qcow2L2Words e = {.word = (a->host_cluster_offset + (i << g->cluster_bits)) |
                              QCOW2_ENTRY_COPIED};
    uint64_t mask;

    if (!g->extended_l2)
        return e;
    /* If the whole cluster is zeros, in the file and on the disk, the next write is in
     * place. */
    mask = a->all_is_zero ? QCOW2_ALL_ALLOCATED : qcow2_subcluster_mask(g, start, end);
    if (!(old.word & QCOW2_L2_COMPRESSED)) /* its bitmap has no meaning */
        e.bitmap = old.bitmap & ~(mask << 32);
    e.bitmap |= mask;
    return e;
}

QimgErrno
qcow2_publish(QimgFormat *format, QimgWritePlan *plan)
{
    Qcow2 *q = (Qcow2 *)format;
    const QimgAllocation *a = &plan->allocation;
    uint64_t n_words = q->geometry.l2_entry_words;
    QimgClusters run = {a->host_cluster_offset >> q->geometry.cluster_bits,
                        a->n_clusters};
    uint64_t old_words[TABLE_SLICE_WORDS], words[TABLE_SLICE_WORDS];
    /* New clusters are prepared durably, unless entries are pending. */
    Qcow2L2Order order = {.data_first = a->data_first || (a->is_new_cluster &&
                                                          qimg_format_is_behind(format))};
    Qcow2L2Slice slice = {0};
    QimgErrno err = qcow2_l2_pin(q, a->l2_table_offset, a->l2_index, &slice);

    for (uint64_t i = 0; !err && i < a->n_clusters; i++) {
        Qcow2L2Words old = qcow2_l2_get(q, &slice, a->l2_index + i);
        Qcow2L2Words e = new_entry(q, plan, i, old);

        order.is_bitmap_first |= (old.word & QCOW2_L2_COMPRESSED) != 0;
        old_words[i] = old.word;
        words[i * n_words] = e.word;
        if (n_words == 2)
            words[i * 2 + 1] = e.bitmap;
    }
    if (!err)
        err = qcow2_l2_store(q, &slice, a->l2_index * n_words % q->slice_words, words,
                             a->n_clusters * n_words, order);
    table_slice_unpin(&slice.slice);
    if (err && q->geometry.has_data_file)
        qcow2_data_zeros_forget(q);
    if (err && a->is_new_cluster) /* an entry may have been in the file for a moment */
        qcow2_free_later(q, run);
    for (uint64_t i = 0; !err && a->is_new_cluster && i < a->n_clusters; i++)
        qcow2_free_entry_later(q, old_words[i]);
    inflight_end(format->inflight, &plan->inflight);
    return err;
}

/* Of a plan whose entries were not changed. */
static void
undo_allocation(Qcow2 *q, const QimgAllocation *a)
{
    if (a->is_zeroed && !a->is_new_cluster) /* some of the data may be there */
        qcow2_data_zeros_forget(q);
    if (a->is_new_cluster) {
        QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));

        qcow2_alloc_undo(
            q, (QimgClusters){a->host_cluster_offset >> q->geometry.cluster_bits,
                              a->n_clusters});
    }
}

void
qcow2_abandon(QimgFormat *format, QimgWritePlan *plan)
{
    if (plan->kind == QIMG_PLAN_ALLOCATES)
        undo_allocation((Qcow2 *)format, &plan->allocation);
    inflight_end(format->inflight, &plan->inflight);
}
