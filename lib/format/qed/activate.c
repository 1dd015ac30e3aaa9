/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of a writable layer: checks at open, preparation of the first change, and the
 * end. Spec: qed section 4. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qed/activate.h"

#include <errno.h>
#include <inttypes.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/errors.h"
#include "format/qed/alloc.h"
#include "format/qed/header-io.h"
#include "format/qed/walk.h"

bool
qed_open_for_writing(Qed *qed, GError **error)
{
    QimgFormat *base = &qed->base;

    if (base->active.n_l1_entries_in_file < base->active.n_l1_entries) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "l1_table_offset: the L1 table is cut by the end of the file, so "
                       "the image must not be written to (mount it read-only)");
        return false;
    }
    if (base->is_dirty)
        qimg_format_warn(base, "its tables are checked and repaired before the first "
                               "write");
    base->zero_unit_bytes = base->cluster_bytes;
    qed->returned = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    return true;
}

/* ---- the first change ---- */

/* Refuses all changes of a damaged image from now on; nothing was changed. */
static QimgErrno
refuse_damaged(Qed *qed, const QedWalk *walk)
{
    if (!atomic_exchange(&qed->base.broken, true))
        g_warning("%s: %s: %s (host offset %" PRIu64 "; %" PRIu64
                  " such places); nothing was changed, and it is read-only from now on "
                  "(run qimg check)",
                  qed->base.file->path, qimg_rule_field(walk->first_rule),
                  qimg_rule_text(walk->first_rule), walk->first_host_offset,
                  walk->n_invalid + walk->n_shared + walk->n_errors);
    return -EIO;
}

/* Collects the tables, as far as they are valid. */
static QimgErrno
collect(Qed *qed, bool mends, QedWalk *walk)
{
    const QedWalkOptions options = {.mends = mends, .collects = true};

    qimg_index_set_free(qed->base.metadata); /* of another attempt */
    qed->base.metadata = qimg_index_set_new();
    return qed_walk(qed, &options, walk);
}

/* Collects the tables of a valid image. Invalid entries left by a program that died are
 * zeroed if NEED_CHECK is set. */
static QimgErrno
look_at_tables(Qed *qed, QedWalk *walk)
{
    QimgErrno err = collect(qed, false, walk);

    if (!err && (walk->n_shared > 0 || walk->n_errors > 0 ||
                 (walk->n_invalid > 0 && !qed->base.is_dirty)))
        return refuse_damaged(qed, walk);
    if (err || walk->n_invalid == 0)
        return err;
    qed_walk_clear(walk);
    err = collect(qed, true, walk);
    if (!err)
        err = qimg_storage_sync(qed->base.file);
    if (!err)
        g_message("%s: was not closed properly and has been repaired: %" PRIu64
                  " entries that were no places in the file read as unallocated now",
                  qed->base.file->path, walk->n_mended);
    return err;
}

/* Clusters without references are left by a program that died: those at the end of the
 * file are truncated, the others zeroed and reused for new data (E2). Under
 * alloc_lock. */
static QimgErrno
reclaim_leaks(Qed *qed, const QedWalk *walk)
{
    unsigned bits = qed->header.cluster_bits;
    QimgErrno err = 0;
    QimgClusters run = {0};

    g_array_set_size(qed->returned, 0); /* of a failed attempt */
    /* They may include data of an entry that had to be dropped: these stay, for recovery
     * by the user. */
    if (!qed->base.is_dirty || walk->n_mended > 0)
        return 0;
    while (!err && qed_walk_find_unused(walk, &run)) {
        err = qimg_storage_zero(qed->base.file, QIMG_IO_RESERVE,
                                qimg_host(run.first_cluster << bits),
                                run.n_clusters << bits);
        g_array_append_val(qed->returned, run);
    }
    if (!err && walk->used_end_cluster < walk->n_clusters)
        err = qed_cut_file(qed, walk->used_end_cluster << bits);
    return err || qed->returned->len == 0 ? err : qimg_storage_sync(qed->base.file);
}

/* Under alloc_lock. */
QimgErrno
qed_activate(QimgFormat *format)
{
    Qed *qed = (Qed *)format;
    QedWalk walk;
    QimgErrno err = look_at_tables(qed, &walk);

    if (!err)
        err = reclaim_leaks(qed, &walk);
    qed_walk_clear(&walk);
    if (!err)
        err = qimg_storage_get_size(qed->base.file, &qed->first_file_bytes);
    if (!err) {
        /* A truncated last cluster is unused, and is taken again. Its last sector counts
         * as whole. */
        qed->first_cluster = qed->next_cluster = qed->end_cluster =
            qimg_div_round_up(qed->first_file_bytes, QIMG_SECTOR_BYTES) /
            (qed->base.cluster_bytes / QIMG_SECTOR_BYTES);
        err = qed_store_field(qed, QED_HEADER_AT_AUTOCLEAR, 0,
                              qed->header.autoclear_features);
    }
    if (!err)
        qed->header.autoclear_features = 0;
    return err;
}

/* ---- durability ---- */

QimgErrno
qed_flush(QimgFormat *format)
{
    Qed *qed = (Qed *)format;

    if (!atomic_load(
            &qed->is_active)) /* a sync before the first change may have failed */
        return atomic_load(&format->file->sync_error);
    return qimg_format_sync(format);
}

void
qed_end_writing(QimgFormat *format)
{
    Qed *qed = (Qed *)format;
    QimgErrno err;

    if (!atomic_load(&qed->is_active))
        return;
    err = qed_flush(format);
    if (!err && !atomic_load(&format->broken)) {
        qimg_mutex_lock(&qed->alloc_lock);
        err = qed_alloc_release_reserve(qed);
        /* A clear bit shall also mean that there are no leaks. */
        if (!err)
            err = qimg_storage_sync(format->file);
        if (!err)
            err = qed_set_need_check(qed, false); /* E1 */
        qimg_mutex_unlock(&qed->alloc_lock);
    }
    if (err)
        g_warning("%s: not all could be written when it was closed: %s (run qimg check)",
                  format->file->path, g_strerror(-err));
}
