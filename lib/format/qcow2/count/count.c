/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counts the references to each cluster of the image file. Spec: qcow2 section 7,
 * qcow2-write section 13.
 *
 * A cluster's refcount is the number of paths to it. First, everything outside the L2
 * tables is counted; each L2 table then has one reference per L1 entry that names it, and
 * each of its entries counts that many references to its clusters. So each table is read
 * once, in the order of the file, for any number of snapshots.
 *
 * I1  The work is bounded by the file's length: a table beyond its end is not walked, and
 *     overlapping tables only up to the length that would fit in the file side by side.
 *
 * I2  While the L2 tables are walked, the count of each is only the number of L1 entries
 *     that name it: other references to its cluster are added at the end. */

#include "format/qcow2/count/count.h"

#include <errno.h>

#include "base/checked.h"
#include "codec/qcow2-refcounts.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/count/count-extensions.h"
#include "format/qcow2/count/count-walk.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/refcount/alloc-state.h"
#include "format/qcow2/refcount/refcount.h"
#include "format/qcow2/tables/overlap.h"

#define N_EXTRA_MINIMUM 16u
#define N_STEP          16384u /* clusters between two steps of the task */

/* ---- L1 and L2 tables ---- */

static void
count_l1_entry(Qcow2Walk *w, uint64_t entry, uint64_t entry_offset)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t l2_table_offset = entry & QCOW2_OFFSET_MASK;

    if (entry & QCOW2_L1_RESERVED)
        qcow2_walk_problem(w, QIMG_RULE_L1_RESERVED, entry_offset);
    if (l2_table_offset == 0)
        return;
    if (!qimg_is_aligned(l2_table_offset, g->cluster_bytes)) {
        /* The intended cluster is unknown: both are kept from being freed. */
        qcow2_walk_unread(w, QIMG_RULE_L2_UNALIGNED, entry_offset);
        qcow2_walk_note_beyond(w, l2_table_offset);
        for (uint64_t c = l2_table_offset >> g->cluster_bits, n = 0; n < 2; c++, n++)
            if (c < w->counts->n_clusters)
                qcow2_walk_add_late(w, c, 1);
    } else if (!qimg_range_fits(l2_table_offset, g->cluster_bytes, w->end_bytes)) {
        qcow2_walk_unread(w, QIMG_RULE_L2_BEYOND_EOF, entry_offset);
        qcow2_walk_note_beyond(w, l2_table_offset);
        if (l2_table_offset >> g->cluster_bits < w->counts->n_clusters)
            qcow2_walk_add_late(w, l2_table_offset >> g->cluster_bits, 1);
    } else {
        qcow2_walk_cluster(w, l2_table_offset >> g->cluster_bits, QCOW2_USE_L2, 1);
    }
}

/* Counts an L1 table; false if it cannot be walked. */
static bool
count_l1_table(Qcow2Walk *w, const QimgView *view)
{
    uint64_t n_bytes = (uint64_t)view->n_l1_entries * 8;

    if (qimg_range_fits(view->l1_table_offset.v, n_bytes, w->end_bytes))
        return qcow2_walk_table(w, view->l1_table_offset.v, n_bytes);
    qcow2_walk_note_beyond(w, view->l1_table_offset.v);
    qcow2_walk_unread(w, QIMG_RULE_L1_BEYOND_EOF, view->l1_table_offset.v);
    return false;
}

/* Counts the references of an L1 table to L2 tables. */
static QimgErrno
count_walk_l1_table(Qcow2Walk *w, const QimgView *view)
{
    uint64_t l1_offset = view->l1_table_offset.v;
    uint64_t n;

    for (uint64_t i = 0; i < view->n_l1_entries; i += n) {
        QimgErrno err;

        n = qimg_min_u64(view->n_l1_entries - i, QCOW2_WALK_READ_BYTES / 8);
        err = qcow2_walk_read(w, QIMG_IO_L1, l1_offset + i * 8, n);
        if (err)
            return qcow2_walk_error(w, err, l1_offset);
        for (uint64_t j = 0; j < n; j++)
            if (w->buffer[j] != 0)
                count_l1_entry(w, w->buffer[j], l1_offset + (i + j) * 8);
    }
    return 0;
}

static QimgRule
check_l1_range(const Qcow2 *q, const QimgView *view)
{
    return qcow2_check_table(view->l1_table_offset.v, view->n_l1_entries, 8,
                             q->geometry.cluster_bytes, QCOW2_MAX_L1_BYTES,
                             QIMG_RULE_SNAPSHOT_L1_SIZE, QIMG_RULE_SNAPSHOT_L1_OFFSET);
}

/* Counts the snapshot table and the snapshots' L1 tables; @is_sound_out is set for each
 * snapshot whose table is to be walked. */
static void
count_snapshots(Qcow2Walk *w, bool *is_sound_out)
{
    Qcow2 *q = w->q;
    QimgRule rule = qcow2_header_check_snapshot_table(&q->header).rule;

    if (rule)
        qcow2_walk_unread(w, rule, q->header.snapshots_offset);
    else if (q->base.snapshots->n < q->header.n_snapshots)
        qcow2_walk_unread(w, QIMG_RULE_SNAPSHOT_ENTRY, q->header.snapshots_offset);
    if (rule || q->base.snapshots->n < q->header.n_snapshots)
        qcow2_walk_note_beyond(w, q->header.snapshots_offset);
    (void)qcow2_walk_alone(w, q->header.snapshots_offset, q->snapshot_table_bytes);
    for (unsigned i = 0; i < q->base.snapshots->n; i++) {
        const QimgView *view = &q->base.snapshots->items[i].view;

        rule = check_l1_range(q, view);
        if (rule)
            qcow2_walk_unread(w, rule, view->l1_table_offset.v);
        is_sound_out[i] = !rule && count_l1_table(w, view);
    }
}

/* Counts all L1 tables, and only then their references: so L2 tables that lie in clusters
 * of others are recognised. */
static QimgErrno
count_l1_tables(Qcow2Walk *w)
{
    QimgFormat *base = &w->q->base;
    g_autofree bool *is_sound = g_try_malloc0(base->snapshots->n + 1);
    bool is_active_sound;
    QimgErrno err = 0;

    if (!is_sound)
        return -ENOMEM;
    is_active_sound = count_l1_table(w, &base->active);
    count_snapshots(w, is_sound);
    if (is_active_sound)
        err = count_walk_l1_table(w, &base->active);
    for (unsigned i = 0; !err && i < base->snapshots->n; i++)
        if (is_sound[i])
            err = count_walk_l1_table(w, &base->snapshots->items[i].view);
    return err;
}

/* Counts the references of an entry at @entry_offset of a table with @weight
 * references. */
static void
count_l2_entry(Qcow2Walk *w, uint64_t word, uint64_t bitmap, uint32_t weight,
               uint64_t entry_offset)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t host_offset = word & QCOW2_OFFSET_MASK;
    /* The guest cluster matters only with a data file, and only for maps. */
    QimgRule rule = qcow2_l2_check_for_change(g, word, bitmap, host_offset);

    if (!rule && (word & QCOW2_L2_COMPRESSED) && bitmap != 0)
        rule = QIMG_RULE_SUBCLUSTER_BITMAP;
    if (rule)
        qcow2_walk_problem(w, rule, entry_offset);
    if (qcow2_is_unaligned_zero(g, word, bitmap)) {
        w->counts->n_unaligned_zeros++;
    } else if (g->has_data_file) {
        return;
    } else if (word & QCOW2_L2_COMPRESSED) {
        QimgL2Entry e = qcow2_l2_decode_compressed(g, word);

        if (e.kind != QIMG_L2_DAMAGED)
            (void)qcow2_walk_range(w, e.host_offset, e.stream_bytes, QCOW2_USE_DATA,
                                   weight, QIMG_RULE_DATA_BEYOND_EOF);
    } else if (host_offset != 0) {
        (void)qcow2_walk_range(w, host_offset, g->cluster_bytes, QCOW2_USE_DATA, weight,
                               QIMG_RULE_DATA_BEYOND_EOF);
    }
}

static QimgErrno
count_l2_table(Qcow2Walk *w, uint64_t l2_table_offset, uint32_t weight)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t n_bytes = qimg_min_u64(g->cluster_bytes, QCOW2_WALK_READ_BYTES);

    for (uint64_t done = 0; done < g->cluster_bytes; done += n_bytes) {
        uint64_t at = l2_table_offset + done;
        QimgErrno err = qcow2_walk_read(w, QIMG_IO_L2, at, n_bytes / 8);

        if (err)
            return qcow2_walk_error(w, err, at);
        for (uint64_t i = 0; i < n_bytes / 8; i += g->l2_entry_words) {
            uint64_t word = w->buffer[i];
            uint64_t bitmap = g->extended_l2 ? w->buffer[i + 1] : 0;

            if (word != 0 || bitmap != 0)
                count_l2_entry(w, word, bitmap, weight, at + i * 8);
        }
    }
    return 0;
}

/* After all L1 tables are counted: each L2 table once. */
static QimgErrno
count_l2_tables(Qcow2Walk *w)
{
    Qcow2Counts *counts = w->counts;
    unsigned bits = w->q->geometry.cluster_bits;
    QimgErrno err = 0;

    for (uint64_t c = 0; !err && c < counts->n_clusters; c++) {
        if (c % N_STEP == 0)
            err = qimg_task_step(w->options->task, c, 3 * counts->n_clusters);
        if (!err && qcow2_counts_get_use(counts, c) == QCOW2_USE_L2)
            err = count_l2_table(w, c << bits, (uint32_t)qcow2_counts_get(counts, c));
    }
    for (guint i = 0; !err && i < w->shared_tables->len; i++) {
        const Qcow2Reference *r = &g_array_index(w->shared_tables, Qcow2Reference, i);

        err = count_l2_table(w, r->cluster << bits, r->weight);
    }
    for (guint i = 0; i < w->late->len; i++) {
        const Qcow2Reference *r = &g_array_index(w->late, Qcow2Reference, i);

        if (qcow2_counts_get_use(counts, r->cluster) == QCOW2_USE_NONE)
            counts->words[r->cluster] = (uint32_t)QCOW2_USE_DATA << QCOW2_USE_SHIFT;
        qcow2_walk_add(w, r->cluster, r->weight);
    }
    return err;
}

/* ---- refcount table and blocks ---- */

/* Reads the refcount table whatever it holds: invalid entries become 0. */
static QimgErrno
load_refcount_table(Qcow2Walk *w)
{
    Qcow2 *q = w->q;
    QimgRule rule = qcow2_header_check_refcount_table(&q->header).rule;
    uint64_t n_bytes = (uint64_t)q->header.n_refcount_table_clusters
                       << q->geometry.cluster_bits;
    QimgErrno err;

    if (!rule && !qimg_range_fits(q->header.refcount_table_offset, n_bytes,
                                  w->counts->n_clusters << q->geometry.cluster_bits))
        rule = QIMG_RULE_TABLE_BEYOND_EOF;
    if (!rule) {
        err = qcow2_refcount_read_table(q);
        if (err == -ENOMEM)
            return err;
        if (err) {
            rule = QIMG_RULE_UNREADABLE;
            w->counts->n_errors++;
        }
    }
    if (rule) {
        qcow2_walk_problem(w, rule, q->header.refcount_table_offset);
        w->counts->are_refcounts_ruined = true;
        g_clear_pointer(&q->alloc->refcount_table, g_free);
        q->alloc->n_refcount_table_entries = 0;
    }
    for (uint64_t i = 0; i < q->alloc->n_refcount_table_entries; i++) {
        if (qcow2_refcount_is_entry_sound(q, q->alloc->refcount_table[i]))
            continue;
        qcow2_walk_problem(w, QIMG_RULE_REFTABLE_ENTRY,
                           q->header.refcount_table_offset + i * sizeof(uint64_t));
        w->counts->are_refcounts_ruined = true;
        q->alloc->refcount_table[i] = 0;
    }
    return 0;
}

static void
count_refcounts(Qcow2Walk *w)
{
    Qcow2 *q = w->q;

    if (w->options->leaves_out_refcounts || q->alloc->n_refcount_table_entries == 0)
        return;
    (void)qcow2_walk_alone(w, q->header.refcount_table_offset,
                           q->alloc->n_refcount_table_entries * sizeof(uint64_t));
    for (uint64_t i = 0; i < q->alloc->n_refcount_table_entries; i++)
        if (q->alloc->refcount_table[i] != 0)
            (void)qcow2_walk_alone(w, q->alloc->refcount_table[i],
                                   q->geometry.cluster_bytes);
}

/* Whether a cluster of the refcount table or of a block has another use, too. */
static bool
are_refcounts_shared(const Qcow2Walk *w)
{
    const Qcow2 *q = w->q;
    unsigned bits = q->geometry.cluster_bits;
    uint64_t first = q->header.refcount_table_offset >> bits;
    uint64_t n = q->alloc->n_refcount_table_entries * sizeof(uint64_t) >> bits;

    for (uint64_t c = first; c < first + n; c++)
        if (qcow2_counts_get(w->counts, c) != 1)
            return true;
    for (uint64_t i = 0; i < q->alloc->n_refcount_table_entries; i++)
        if (q->alloc->refcount_table[i] != 0 &&
            qcow2_counts_get(w->counts, q->alloc->refcount_table[i] >> bits) != 1)
            return true;
    return false;
}

/* ---- the whole count ---- */

/* Allocates the array, with room for structures that a repair may add: refcount blocks,
 * at most one for each block's worth of clusters, and those that count these; a refcount
 * table, and a snapshot table with longer entries. */
static QimgErrno
count_prepare(Qcow2Walk *w, uint64_t size_bytes)
{
    const Qcow2 *q = w->q;
    Qcow2Counts *counts = w->counts;
    uint64_t cluster_bytes = q->geometry.cluster_bytes;
    uint64_t per_block = qcow2_refcounts_per_block(
        q->geometry.cluster_bits,
        (uint32_t)qimg_max_u64(q->header.refcount_order, w->options->refcount_order));
    uint64_t snapshot_bytes =
        q->snapshot_table_bytes + UINT64_C(24) * q->base.snapshots->n;

    counts->n_clusters = qimg_div_round_up(size_bytes, cluster_bytes);
    counts->n_words =
        counts->n_clusters + qimg_div_round_up(snapshot_bytes, cluster_bytes);
    /* A block counts at least 64 clusters, so twice as many are enough for all levels,
     * and for the table, which has an eighth of a sector for each of them. */
    counts->n_words += 2 * (counts->n_words / per_block) + N_EXTRA_MINIMUM;
    if (counts->n_words > QCOW2_MAX_COUNT_BYTES / sizeof *counts->words)
        return -EFBIG;
    counts->words = g_try_malloc0(counts->n_words * sizeof *counts->words);
    return counts->words ? 0 : -ENOMEM;
}

static QimgErrno
count_all(Qcow2Walk *w)
{
    QimgErrno err = w->options->is_for_check ? load_refcount_table(w) : 0;

    if (err)
        return err;
    (void)qcow2_walk_alone(w, 0, w->q->geometry.cluster_bytes);
    count_refcounts(w);
    err = qcow2_walk_extensions(w);
    if (!err)
        err = count_l1_tables(w);
    if (!err)
        err = count_l2_tables(w);
    if (!err && !w->options->leaves_out_refcounts && are_refcounts_shared(w))
        w->counts->are_refcounts_ruined = true;
    return err;
}

/* Prepares a count, runs @count, and ends it. */
static QimgErrno
run_walk(Qcow2Walk *w, QimgErrno (*count)(Qcow2Walk *w))
{
    uint64_t size_bytes = 0;
    QimgErrno err;

    *w->counts =
        (Qcow2Counts){.problems = g_array_new(FALSE, FALSE, sizeof(Qcow2Problem))};
    w->buffer = g_try_malloc(QCOW2_WALK_READ_BYTES);
    w->late = g_array_new(FALSE, FALSE, sizeof(Qcow2Reference));
    w->shared_tables = g_array_new(FALSE, FALSE, sizeof(Qcow2Reference));
    err = w->buffer ? qimg_storage_get_size(w->q->base.file, &size_bytes) : -ENOMEM;
    if (!err && !qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, &w->end_bytes))
        err = -EFBIG;
    w->table_bytes_left = w->end_bytes;
    w->first_beyond = UINT64_MAX;
    if (!err)
        err = count_prepare(w, size_bytes);
    if (!err)
        err = count(w);
    w->counts->n_words = qimg_min_u64(w->counts->n_words, w->first_beyond);
    g_free(w->buffer);
    g_array_unref(w->late);
    g_array_unref(w->shared_tables);
    return err;
}

static const Qcow2CountOptions defaults;

QimgErrno
qcow2_count_references(Qcow2 *q, const Qcow2CountOptions *options, Qcow2Counts *out)
{
    Qcow2Walk w = {.q = q, .counts = out, .options = options ? options : &defaults};

    return run_walk(&w, count_all);
}

/* ---- one tree ---- */

/* Counts everything outside the tree, to detect references of the tree to it. In an
 * active layer no two of these overlap (qcow2_collect_metadata). */
static void
count_other_tables(Qcow2Walk *w)
{
    Qcow2 *q = w->q;
    const QimgView *other = &q->base.active;

    (void)qcow2_walk_alone(w, 0, q->geometry.cluster_bytes);
    count_refcounts(w);
    (void)qcow2_walk_alone(w, q->header.snapshots_offset, q->snapshot_table_bytes);
    for (unsigned i = 0; i <= q->base.snapshots->n; i++) {
        if (other != w->view)
            (void)qcow2_walk_alone(w, other->l1_table_offset.v,
                                   (uint64_t)other->n_l1_entries * 8);
        if (i < q->base.snapshots->n)
            other = &q->base.snapshots->items[i].view;
    }
}

static QimgErrno
count_one_tree(Qcow2Walk *w)
{
    QimgRule rule = check_l1_range(w->q, w->view);
    QimgErrno err = 0;

    if (rule) {
        qcow2_walk_unread(w, rule, w->view->l1_table_offset.v);
        return 0;
    }
    count_other_tables(w);
    if (count_l1_table(w, w->view))
        err = count_walk_l1_table(w, w->view);
    return err ? err : count_l2_tables(w);
}

/* Keeps only the counts of the tree. Its data must not lie in L2 tables of the active
 * disk either. */
static void
keep_tree(Qcow2Walk *w, bool with_l1)
{
    unsigned bits = w->q->geometry.cluster_bits;
    uint64_t n_l1_bytes = with_l1 ? (uint64_t)w->view->n_l1_entries * 8 : 0;
    uint64_t l1_start = w->view->l1_table_offset.v >> bits;
    uint64_t l1_end = l1_start + qimg_div_round_up(n_l1_bytes, UINT64_C(1) << bits);

    for (uint64_t c = 0; c < w->counts->n_clusters; c++) {
        Qcow2Use use = qcow2_counts_get_use(w->counts, c);

        if (use == QCOW2_USE_ALONE && (c < l1_start || c >= l1_end))
            w->counts->words[c] = 0;
        else if (use == QCOW2_USE_DATA && qimg_index_set_has(w->q->base.metadata, c))
            qcow2_walk_problem(w, QIMG_RULE_METADATA_OVERLAP, c << bits);
    }
}

QimgErrno
qcow2_count_tree(Qcow2 *q, const QimgView *view, bool with_l1,
                 const Qcow2CountOptions *options, Qcow2Counts *out)
{
    Qcow2Walk w = {.q = q, .counts = out, .options = options, .view = view};
    QimgErrno err = run_walk(&w, count_one_tree);

    if (!err)
        keep_tree(&w, with_l1);
    return err;
}
