/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Repairs an image: makes refcounts and COPIED flags what its references say. Spec: qcow2
 * section 13, qcow2-write section 13.
 *
 * There are three modes. A dirty image that is going to be written to is repaired wholly,
 * or, where anything else is wrong with it, not at all. Leaks are only lowered. And a
 * repair of everything does what can be done without losing anything: what refers to what
 * stays as it is.
 *
 * Each of the values that are written is right by itself, whatever else got to the disk,
 * and a repair that was cut off anywhere is done again: the dirty and corrupt bits are
 * cleared last. These things are kept in order all the same:
 *
 * R1  Nothing of a dirty image is written before it is known that everything can be
 *     repaired.
 * R2  A new refcount block, or snapshot table, is durable before anything refers to it,
 *     and so is its own refcount.
 * R3  Refcounts that are too low are raised, durably, before others are lowered: somebody
 *     who knows nothing of the dirty bit finds leaks at worst. What drops a reference is
 *     durable before the refcount is lowered.
 * R4  No refcount is lowered, and no cluster inside the file is used for something new,
 *     while there may be references that could not be counted. */
#define G_LOG_DOMAIN "qimg-format"

#include <errno.h>
#include <inttypes.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/errors.h"
#include "codec/qcow2-refcounts.h"
#include "format/qcow2/check.h"

typedef enum {
    PASS_RAISE,
    PASS_LOWER, /* counts what it finds too low */
} Pass;

/* ---- planning ---- */

/* Whether a cluster that block @index counts has a reference. */
static bool
is_range_used(const Qcow2Repair *r, uint64_t index)
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

/* Where the missing block @index goes: into its own range, so that it needs no other, or,
 * where that is full (R4: or not known), behind the file. False where neither can be. */
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

        if (i < r->q->n_refcount_table_entries && r->q->refcount_table[i] != 0)
            continue;
        if (!is_range_used(r, i))
            continue;
        if (i >= r->q->n_refcount_table_entries || !find_place(r, i, &block.cluster))
            return QIMG_RULE_REFTABLE_TOO_SMALL;
        qcow2_counts_take(&r->counts, block.cluster);
        g_array_append_val(r->new_blocks, block);
    }
    return QIMG_RULE_OK;
}

/* Whether all counts fit in the image's refcounts. */
static bool
do_counts_fit(const Qcow2Repair *r)
{
    uint64_t max = qcow2_refcount_max(r->q->header.refcount_order);

    if (max > UINT32_MAX / 2) /* counts never are that large */
        return true;
    for (uint64_t c = 0; c < r->counts.n_words; c++)
        if (qcow2_counts_get(&r->counts, c) > max)
            return false;
    return true;
}

/* Refuses all changes of the layer from now on; what can be read stays readable. */
static QimgErrno
refuse(Qcow2Repair *r, QimgRule rule, uint64_t host_offset)
{
    if (!atomic_exchange(&r->q->base.broken, true))
        g_warning("%s: was not closed properly and cannot be repaired: %s: %s (host "
                  "offset %" PRIu64 "; %" PRIu64
                  " such places); nothing was changed, and "
                  "it is read-only from now on (run qimg check -r all)",
                  r->q->base.file->path, qimg_rule_field(rule), qimg_rule_text(rule),
                  host_offset, qimg_max_u64(r->counts.n_problems, 1));
    return -EIO;
}

/* R1: everything that can stand in the way. */
static QimgErrno
plan_dirty(Qcow2Repair *r)
{
    QimgErrno err = qcow2_count_references(r->q, NULL, &r->counts);
    QimgRule rule;

    if (err == -EFBIG && !atomic_exchange(&r->q->base.broken, true))
        g_warning("%s: was not closed properly, and its file is too large for a repair; "
                  "it is read-only from now on (run qimg check -r all)",
                  r->q->base.file->path);
    if (err)
        return err;
    if (r->counts.n_problems > 0) {
        const Qcow2Problem *first = &g_array_index(r->counts.problems, Qcow2Problem, 0);

        return refuse(r, first->rule, first->host_offset);
    }
    if (!do_counts_fit(r))
        return refuse(r, QIMG_RULE_REFCOUNT_RANGE, 0);
    rule = qcow2_repair_plan_blocks(r);
    return rule ? refuse(r, rule, r->q->header.refcount_table_offset) : 0;
}

/* ---- refcounts ---- */

/* The refcount that @cluster shall have, which now has @old: what is counted, as far as
 * it can be stored. */
static uint64_t
wanted_refcount(const Qcow2Repair *r, uint64_t cluster, uint64_t old)
{
    uint64_t n = qcow2_counts_get(&r->counts, cluster);

    if (n == QCOW2_MAX_COUNT) /* that many, or more */
        n = qimg_max_u64(n, old);
    return qimg_min_u64(n, qcow2_refcount_max(r->q->header.refcount_order));
}

/* Makes the entries of the block in memory right, as far as @pass may; whether any was
 * changed. */
static bool
correct_block(Qcow2Repair *r, uint64_t index, Pass pass)
{
    uint32_t order = r->q->header.refcount_order;
    bool is_changed = false;

    for (uint64_t i = 0; i < r->per_block; i++) {
        uint64_t cluster = index * r->per_block + i;
        uint64_t old = qcow2_refcount_decode(r->block, order, i);
        uint64_t wanted = wanted_refcount(r, cluster, old);

        if (pass == PASS_LOWER && old < qcow2_counts_get(&r->counts, cluster))
            r->n_too_low++;
        if (pass == PASS_RAISE ? wanted <= old : wanted >= old)
            continue;
        qcow2_refcount_encode(r->block, order, i, wanted);
        is_changed = true;
        if (pass == PASS_RAISE)
            r->n_raised++;
        else
            r->n_lowered++;
        if (wanted == 0 && r->freed && cluster < r->counts.n_clusters)
            qcow2_clusters_append(r->freed, (QimgClusters){cluster, 1});
    }
    return is_changed;
}

static QimgErrno
write_block(Qcow2Repair *r, uint64_t host_offset)
{
    return qimg_storage_write(r->q->base.file, QIMG_IO_REFCOUNT, qimg_host(host_offset),
                              r->block, r->q->geometry.cluster_bytes);
}

/* Gives the space back of the clusters that are free by the block that was just written,
 * once that is durable. */
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

static QimgErrno
correct_blocks(Qcow2Repair *r, Pass pass)
{
    Qcow2 *q = r->q;

    for (uint64_t i = 0; i < q->n_refcount_table_entries; i++) {
        QimgErrno err;

        if (q->refcount_table[i] == 0) {
            if (pass == PASS_LOWER && is_range_used(r, i))
                r->n_too_low++;
            continue;
        }
        err = qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT,
                                qimg_host(q->refcount_table[i]), r->block,
                                q->geometry.cluster_bytes);
        if (!err && correct_block(r, i, pass))
            err = write_block(r, q->refcount_table[i]);
        if (!err)
            err = release_freed(r);
        if (err)
            return err;
    }
    return 0;
}

/* What block @index counts, as far as that is known, is at least what is stored there. */
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
        uint64_t host_offset = i < q->n_refcount_table_entries ? q->refcount_table[i] : 0;
        /* A block in which something else lies is none any more. */
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
        (void)correct_block(r, block->index, PASS_RAISE);
        err = write_block(r, block->cluster << q->geometry.cluster_bits);
    }
    return err;
}

/* Writes the missing blocks, then the table's entries for them (R2). */
static QimgErrno
add_new_blocks(Qcow2Repair *r)
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
            q->refcount_table[block->index] = host_offset;
    }
    return err;
}

/* ---- the whole ---- */

/* Does what is planned. */
static QimgErrno
repair_as_planned(Qcow2Repair *r)
{
    QimgStorage *file = r->q->base.file;
    QimgErrno err = correct_blocks(r, PASS_RAISE);

    if (!err)
        err = add_new_blocks(r);
    if (!err)
        err = qcow2_write_snapshot_table(r);
    if (!err)
        err = qimg_storage_sync(file); /* R2, R3 */
    if (!err)
        err = qcow2_switch_snapshot_table(r);
    /* Where tables overlap, a change of one is a change of the other. */
    if (!err && r->counts.n_table_overlaps == 0)
        err = qcow2_repair_entries(r);
    if (!err)
        err = qimg_storage_sync(file);
    if (!err && !r->is_partial) /* R4 */
        err = correct_blocks(r, PASS_LOWER);
    return err ? err : qimg_storage_sync(file);
}

static Qcow2Repair
repair_new(Qcow2 *q, const QimgCheckReport *report)
{
    return (Qcow2Repair){
        .q = q,
        .report = report,
        .per_block =
            qcow2_refcounts_per_block(q->geometry.cluster_bits, q->header.refcount_order),
        .new_blocks = g_array_new(FALSE, FALSE, sizeof(Qcow2NewBlock)),
        .block = g_try_malloc(q->geometry.cluster_bytes),
    };
}

static void
repair_clear(Qcow2Repair *r)
{
    qcow2_counts_clear(&r->counts);
    g_clear_pointer(&r->snapshot_table, g_byte_array_unref);
    g_array_unref(r->new_blocks);
    g_clear_pointer(&r->freed, g_array_unref);
    g_free(r->block);
}

/* ---- a dirty image at its first change ---- */

QimgErrno
qcow2_repair_dirty(Qcow2 *q)
{
    Qcow2Repair r = repair_new(q, NULL);
    QimgErrno err = r.block ? plan_dirty(&r) : -ENOMEM;

    if (!err)
        err = repair_as_planned(&r);
    if (!err)
        err = qcow2_set_dirty(q, false);
    if (!err)
        g_message("%s: was not closed properly and has been repaired: %" PRIu64
                  " refcounts raised, %" PRIu64 " lowered (leaks), %" PRIu64
                  " COPIED flags corrected",
                  q->base.file->path, r.n_raised, r.n_lowered, r.n_flags);
    repair_clear(&r);
    return err;
}

/* ---- any image, by the user's wish ---- */

/* Counts anew, whatever is found. */
static QimgErrno
count_for_repair(Qcow2Repair *r)
{
    const Qcow2CountOptions options = {.is_for_check = true, .report = r->report};
    QimgErrno err;

    qcow2_counts_clear(&r->counts);
    g_array_set_size(r->new_blocks, 0);
    g_clear_pointer(&r->snapshot_table, g_byte_array_unref);
    err = qcow2_count_references(r->q, &options, &r->counts);
    r->is_partial = r->counts.n_unread > 0;
    return err;
}

static QimgErrno
repair_leaks(Qcow2Repair *r)
{
    uint64_t n_bad_snapshots;
    QimgErrno err = count_for_repair(r);

    if (err || r->is_partial || r->counts.are_refcounts_ruined)
        return err;
    err = qcow2_check_snapshot_entries(r->q, NULL, &n_bad_snapshots);
    if (!err)
        err = correct_blocks(r, PASS_LOWER);
    for (uint64_t i = r->q->n_refcount_table_entries;
         !err && i * r->per_block < r->counts.n_clusters; i++)
        r->n_too_low += is_range_used(r, i);
    /* Flags are no leaks, but nothing else is left to be done then. */
    if (!err && r->counts.n_problems == 0 && r->n_too_low == 0 && n_bad_snapshots == 0)
        err = qcow2_repair_entries(r);
    return err ? err : qimg_storage_sync(r->q->base.file);
}

/* Plans a repair of everything; *@is_rebuild_needed_out: the refcounts have to be rebuilt
 * before. */
static QimgErrno
plan_all(Qcow2Repair *r, bool *is_rebuild_needed_out)
{
    QimgErrno err = count_for_repair(r);

    r->mends_entries = true;
    *is_rebuild_needed_out = r->counts.are_refcounts_ruined;
    if (err || r->counts.are_refcounts_ruined)
        return err;
    err = qcow2_plan_snapshot_table(r);
    if (!err && r->is_partial)
        err = qcow2_repair_settle(r, false);
    if (!err)
        *is_rebuild_needed_out = qcow2_repair_plan_blocks(r) != QIMG_RULE_OK;
    return err;
}

static QimgErrno
repair_all(Qcow2Repair *r)
{
    bool is_rebuild_needed;
    QimgErrno err = plan_all(r, &is_rebuild_needed);

    if (!err && is_rebuild_needed) {
        err = qcow2_rebuild_refcounts(r);
        if (!err || err == -EFBIG)
            err = plan_all(r, &is_rebuild_needed);
        /* Where the file must not grow, at least what is there is corrected. */
        g_array_set_size(r->new_blocks, is_rebuild_needed ? 0 : r->new_blocks->len);
    }
    return err || r->counts.are_refcounts_ruined ? err : repair_as_planned(r);
}

static void
set_repair_error(GError **error, QimgErrno err)
{
    if (err == -EFBIG)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "cannot be repaired: its file is too large to be counted, or for "
                       "a refcount table of clusters of this size (copy its content to "
                       "another image)");
    else
        qimg_set_error_errno(error, -err, "it can be done again",
                             "the repair was not finished");
}

bool
qcow2_repair(QimgFormat *format, QimgRepair mode, QimgCheckReport *report, GError **error)
{
    Qcow2 *q = (Qcow2 *)format;
    Qcow2Repair r = repair_new(q, report);
    QimgErrno err = r.block ? 0 : -ENOMEM;

    r.freed = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    qimg_mutex_lock(&q->alloc_lock); /* nobody else has the layer */
    if (!err)
        err = mode == QIMG_REPAIR_LEAKS ? repair_leaks(&r) : repair_all(&r);
    qimg_mutex_unlock(&q->alloc_lock);
    repair_clear(&r);
    if (err) {
        set_repair_error(error, err);
        return false;
    }
    if (!qcow2_check(format, report, error))
        return false;
    if (report->result.n_corruptions > 0 || report->result.n_check_errors > 0)
        return true;
    err = qcow2_store_incompatible(
        q, q->header.incompatible_features &
               ~(uint64_t)(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT));
    if (err) {
        set_repair_error(error, err);
        return false;
    }
    report->result.is_dirty = report->result.is_marked_corrupt = FALSE;
    return true;
}
