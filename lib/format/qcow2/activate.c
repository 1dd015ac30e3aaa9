/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of a writable layer: checks at open, preparation of the first change, and the
 * end. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qcow2/activate.h"

#include <errno.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/errors.h"
#include "format/qcow2/bitmap/store.h"
#include "format/qcow2/check/reclaim.h"
#include "format/qcow2/check/repair.h"
#include "format/qcow2/count/count.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc-state.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"
#include "format/qcow2/refcount/refcount.h"
#include "format/qcow2/tables/overlap.h"
#include "format/qcow2/write/data-zeros.h"
#include "format/qcow2/write/flush.h"

/* Autoclear bits that stay valid, because writes here maintain their guarantees. */
static uint64_t
kept_autoclear_bits(const Qcow2 *q)
{
    return q->header.autoclear_features &
           (QCOW2_AUTOCLEAR_DATA_FILE_RAW | (q->tracker ? QCOW2_AUTOCLEAR_BITMAPS : 0u));
}

bool
qcow2_open_for_writing(Qcow2 *q, const QimgFormatEnv *env, GError **error)
{
    QimgFormat *base = &q->base;
    const char *reason = NULL;

    if (base->encryption && !base->cipher && !env->without_key)
        reason = "crypt_method: an encrypted image cannot be written to without its "
                 "passphrase";
    else if (base->encryption && base->active.size_bytes % QIMG_SECTOR_BYTES != 0)
        reason = "size: an encrypted disk that is no multiple of 512 bytes cannot be "
                 "written to (mount it read-only)";
    else if (base->is_corrupt)
        reason = "incompatible_features: the image is marked corrupt and must not be "
                 "written to (repair it with qimg check -r all, or mount it "
                 "read-only)";
    else if (base->active.n_l1_entries_in_file < base->active.n_l1_entries)
        reason = "l1_table_offset: the L1 table is cut by the end of the file, so the "
                 "image must not be written to (mount it read-only)";
    else if (base->snapshots->n < q->header.n_snapshots)
        reason = "snapshot table: is damaged, so the image must not be written to (run "
                 "qimg check, or mount it read-only)";
    if (reason) {
        qimg_set_error(error, QIMG_ERROR_REFUSED, "%s", reason);
        return false;
    }
    if (base->is_dirty)
        qimg_format_warn(base, "its refcounts are repaired before the first write");
    if (!env->drops_bitmaps && !qcow2_tracker_open(q, env->bitmap_cache_bytes, error))
        return false;
    if (!q->tracker && (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
        qimg_format_warn(base, "has persistent bitmaps, which the first write makes "
                               "stale, as the option bitmaps=drop says");
    else if (!q->tracker && q->bitmaps.n_bitmaps > 0)
        qimg_format_warn(base, "has stale bitmaps, which only take space (qimg check -r "
                               "leaks gives it back)");
    base->zero_unit_bytes = UINT64_C(1) << q->geometry.subcluster_bits;
    q->header_state = qcow2_header_state_new(q);
    q->alloc = qcow2_alloc_new();
    q->pending = qcow2_pending_new();
    q->data_zeros = qcow2_data_zeros_new();
    q->is_open_for_writing = true;
    return true;
}

void
qcow2_close_for_writing(Qcow2 *q)
{
    qcow2_tracker_free(q->tracker);
    qcow2_data_zeros_free(q->data_zeros);
    qcow2_pending_free(q->pending);
    qcow2_alloc_free(q->alloc);
    qcow2_header_state_free(q->header_state);
}

void
qcow2_open_for_check(Qcow2 *q)
{
    q->header_state = qcow2_header_state_new(q);
    q->alloc = qcow2_alloc_new();
    q->is_open_for_check = true;
}

void
qcow2_end_writing(QimgFormat *format)
{
    Qcow2 *q = (Qcow2 *)format;
    QimgErrno err;

    if (!q->is_open_for_writing || !qcow2_has_begun_changes(q))
        return;
    qcow2_tracker_end(q->tracker);
    qcow2_store_bitmaps(q->tracker);
    err = qcow2_flush(format);
    if (!err && !atomic_load(&q->base.broken)) {
        qimg_mutex_lock(qcow2_alloc_lock(q));
        err = qcow2_alloc_release_reserve(q, q->alloc->first_file_bytes);
        if (!err)
            err = qimg_storage_sync(format->file);
        qimg_mutex_unlock(qcow2_alloc_lock(q));
    }
    /* It may be ahead of a disk that has grown. */
    if (!err && qcow2_data_zeros_end(q) > q->header.size_bytes)
        err = qimg_storage_set_size(format->data_file, q->header.size_bytes);
    if (err)
        g_warning("%s: not all could be written when it was closed: %s (run qemu-img "
                  "check)",
                  format->file->path, g_strerror(-err));
}

static QimgErrno
clear_autoclear_bits(Qcow2 *q)
{
    uint64_t kept = kept_autoclear_bits(q);
    qimg_be64 field = qimg_be64_set(kept);
    QimgErrno err;

    if (q->header.version < 3 || kept == q->header.autoclear_features)
        return 0;
    err = qcow2_write_header_field(q, QCOW2_HEADER_AT_AUTOCLEAR, &field, sizeof field);
    if (!err)
        qcow2_header_to_change(q)->autoclear_features = kept;
    return err;
}

/* A file that ends before a counted cluster may be truncated, and extending it would turn
 * missing data into zeros; or a crash of the machine has lost the length of clusters that
 * are not in use yet. The references in the tables decide. */
static QimgErrno
check_not_cut(Qcow2 *q)
{
    uint64_t n_clusters =
        qimg_div_round_up(q->alloc->first_file_bytes, q->geometry.cluster_bytes);
    uint64_t last_cluster = 0;
    Qcow2Counts counts;
    QimgErrno err = qcow2_refcount_find_last(q, UINT64_MAX, &last_cluster);

    if (err || last_cluster < n_clusters)
        return err;
    err = qcow2_count_references(q, NULL, &counts);
    if (!err && counts.n_problems > 0) {
        const Qcow2Problem *first = &g_array_index(counts.problems, Qcow2Problem, 0);

        err = qcow2_mark_corrupt(q, first->rule, first->host_offset);
    }
    qcow2_counts_clear(&counts);
    return err;
}

QimgErrno
qcow2_activate(QimgFormat *format)
{
    Qcow2 *q = (Qcow2 *)format;
    QimgErrno err = qimg_storage_get_size(q->base.file, &q->alloc->first_file_bytes);

    if (!err)
        err = qcow2_refcount_load_table(q);
    if (!err && (qcow2_get_incompatible(q) & QCOW2_INCOMPAT_DIRTY))
        err = qcow2_repair_dirty(q);
    if (!err)
        err = check_not_cut(q);
    if (!err)
        err = qcow2_reclaim_reserve(q);
    if (!err)
        err = qcow2_collect_metadata(q);
    if (!err)
        err = qcow2_tracker_add_metadata(q->tracker);
    if (!err)
        err = clear_autoclear_bits(q);
    return err;
}
