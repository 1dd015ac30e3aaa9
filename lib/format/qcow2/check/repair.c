/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Repairs an image: makes refcounts and COPIED flags match its references. Spec: qcow2
 * section 13, qcow2-write section 13.
 *
 * There are three modes. A dirty image that is about to be written is repaired completely
 * or, if it has any other problem, not at all. A repair of leaks only lowers refcounts. A
 * repair of everything does all that is possible without loss: no reference changes.
 *
 * Each written value is right by itself, whatever else reached the disk, and an
 * interrupted repair is done again: the dirty and corrupt bits are cleared last. The
 * order has these rules all the same:
 *
 * R1  Nothing of a dirty image is written before it is known that everything can be
 *     repaired.
 *
 * R2  A new refcount block, or snapshot table, is durable before anything refers to it,
 *     and so is its own refcount.
 *
 * R3  Refcounts that are too low are raised, durably, before others are lowered: a
 *     program that ignores the dirty bit finds leaks at worst. The drop of a reference is
 *     durable before the refcount is lowered.
 *
 * R4  No refcount is lowered, and no cluster inside the file is used for new data, while
 *     some references may not have been counted. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qcow2/check/repair.h"

#include <errno.h>
#include <inttypes.h>

#include "base/checked.h"
#include "base/errors.h"
#include "codec/qcow2-refcounts.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/check/rebuild.h"
#include "format/qcow2/check/repair-refcounts.h"
#include "format/qcow2/check/snapshot-mend.h"
#include "format/qcow2/count/count.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/count/flags.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc-state.h"
#include "format/qcow2/refcount/alloc.h"

/* Refuses all changes of the layer from now on; reads still work. */
static QimgErrno
repair_refuse(Qcow2Repair *r, QimgRule rule, uint64_t host_offset)
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

/* R1: all possible obstacles. */
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

        return repair_refuse(r, first->rule, first->host_offset);
    }
    if (!qcow2_repair_do_counts_fit(r))
        return repair_refuse(r, QIMG_RULE_REFCOUNT_RANGE, 0);
    rule = qcow2_repair_plan_blocks(r);
    return rule ? repair_refuse(r, rule, r->q->header.refcount_table_offset) : 0;
}

/* ---- the whole repair ---- */

/* Corrects the flags of the active tables, and entries in all tables. */
static QimgErrno
correct_entries(Qcow2Repair *r)
{
    return qcow2_repair_flags(r->q, &r->counts, r->mends_entries, &r->n_flags);
}

/* Executes the plan. */
static QimgErrno
repair_as_planned(Qcow2Repair *r)
{
    QimgStorage *file = r->q->base.file;
    QimgErrno err = qcow2_repair_correct_blocks(r, QCOW2_PASS_RAISE);

    if (!err)
        err = qcow2_repair_add_blocks(r);
    if (!err)
        err = qcow2_write_snapshot_table(r);
    if (!err)
        err = qimg_storage_sync(file); /* R2, R3 */
    if (!err)
        err = qcow2_switch_snapshot_table(r);
    /* If tables overlap, a change of one is a change of the other. */
    if (!err && r->counts.n_table_overlaps == 0)
        err = correct_entries(r);
    if (!err)
        err = qimg_storage_sync(file);
    if (!err && !r->is_partial) /* R4 */
        err = qcow2_repair_correct_blocks(r, QCOW2_PASS_LOWER);
    return err ? err : qimg_storage_sync(file);
}

static Qcow2Repair
repair_new(Qcow2 *q, uint32_t order, const QimgTask *task)
{
    return (Qcow2Repair){
        .q = q,
        .task = task,
        .order = order,
        .per_block = qcow2_refcounts_per_block(q->geometry.cluster_bits, order),
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
    Qcow2Repair r = repair_new(q, q->header.refcount_order, NULL);
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

/* ---- refcounts of another width ---- */

QimgErrno
qcow2_make_refcounts(Qcow2 *q, uint32_t order, const QimgTask *task,
                     Qcow2RefcountPlace *out)
{
    const Qcow2CountOptions options = {
        .is_for_check = true,
        .leaves_out_refcounts = true,
        .counts_stale_bitmaps = true,
        .refcount_order = order,
        .task = task,
    };
    Qcow2Repair r = repair_new(q, order, task);
    QimgErrno err = r.block ? 0 : -ENOMEM;

    qimg_mutex_lock(qcow2_alloc_lock(q));
    if (!err)
        err = qcow2_count_references(q, &options, &r.counts);
    if (!err &&
        (r.counts.n_problems > 0 || r.counts.n_unread > 0 || r.counts.has_unknown_owner))
        err = -EIO;
    if (!err && !qcow2_repair_do_counts_fit(&r))
        err = -ERANGE;
    if (!err)
        err = qcow2_build_refcounts(&r, out);
    qimg_mutex_unlock(qcow2_alloc_lock(q));
    repair_clear(&r);
    return err;
}

/* ---- any image, at the user's request ---- */

/* Counts again, despite any problems. */
static QimgErrno
count_for_repair(Qcow2Repair *r)
{
    const Qcow2CountOptions options = {.is_for_check = true, .task = r->task};
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
        err = qcow2_repair_correct_blocks(r, QCOW2_PASS_LOWER);
    for (uint64_t i = r->q->alloc->n_refcount_table_entries;
         !err && i * r->per_block < r->counts.n_clusters; i++)
        r->n_too_low += qcow2_repair_is_range_used(r, i);
    /* Flags are no leaks, but are corrected if nothing else is left to do. */
    if (!err && r->counts.n_problems == 0 && r->n_too_low == 0 && n_bad_snapshots == 0)
        err = correct_entries(r);
    return err ? err : qimg_storage_sync(r->q->base.file);
}

/* Plans a repair of everything; *@is_rebuild_needed_out: the refcounts must be rebuilt
 * first. */
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
        /* If the file cannot grow, at least the existing blocks are corrected. */
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
    Qcow2Repair r = repair_new(q, q->header.refcount_order, report->task);
    QimgErrno err = r.block ? 0 : -ENOMEM;

    r.freed = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    qimg_mutex_lock(qcow2_alloc_lock(q)); /* no other thread uses the layer */
    if (!err)
        err = mode == QIMG_REPAIR_LEAKS ? repair_leaks(&r) : repair_all(&r);
    qimg_mutex_unlock(qcow2_alloc_lock(q));
    repair_clear(&r);
    if (err) {
        set_repair_error(error, err);
        return false;
    }
    if (!qcow2_check(format, report, error))
        return false;
    if (report->result.n_corruptions > 0 || report->result.n_check_errors > 0)
        return true;
    err = qcow2_change_incompatible(q, 0, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    if (err) {
        set_repair_error(error, err);
        return false;
    }
    report->result.is_dirty = report->result.is_marked_corrupt = FALSE;
    return true;
}
