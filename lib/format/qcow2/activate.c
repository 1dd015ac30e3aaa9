/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The life of a writable layer: what is refused at open, what must be done before the
 * first change, fields of the header, damage, and the end. */
#define G_LOG_DOMAIN "qimg-qcow2"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/errors.h"
#include "format/qcow2/count.h"

/* Autoclear bits that stay right, since we keep up what they promise. */
#define KEPT_AUTOCLEAR_BITS ((uint64_t)QCOW2_AUTOCLEAR_DATA_FILE_RAW)

bool
qcow2_open_for_writing(Qcow2 *q, GError **error)
{
    QimgFormat *base = &q->base;
    const char *reason = NULL;

    if (base->encryption)
        reason = "crypt_method: an encrypted image cannot be written to by this version "
                 "(mount it read-only)";
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
    if (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS)
        qimg_format_warn(base, "has persistent bitmaps, which the first write makes "
                               "invalid, since this version does not keep them up");
    base->zero_unit_bytes = UINT64_C(1) << q->geometry.subcluster_bits;
    qimg_mutex_init(&q->alloc_lock, QIMG_RANK_ALLOC);
    qimg_mutex_init(&q->pending_lock, QIMG_RANK_PENDING);
    q->pending = g_array_new(FALSE, FALSE, sizeof(Qcow2Clusters));
    q->metadata = qimg_index_set_new();
    q->is_open_for_writing = true;
    return true;
}

void
qcow2_close_for_writing(Qcow2 *q)
{
    if (q->is_open_for_check) {
        g_free(q->refcount_table);
        qimg_mutex_clear(&q->alloc_lock);
    }
    if (!q->is_open_for_writing)
        return;
    qimg_index_set_free(q->metadata);
    g_array_unref(q->pending);
    g_free(q->refcount_table);
    qimg_mutex_clear(&q->pending_lock);
    qimg_mutex_clear(&q->alloc_lock);
}

void
qcow2_open_for_check(Qcow2 *q)
{
    qimg_mutex_init(&q->alloc_lock, QIMG_RANK_ALLOC);
    q->is_open_for_check = true;
}

void
qcow2_end_writing(QimgFormat *format)
{
    Qcow2 *q = (Qcow2 *)format;
    QimgErrno err;

    if (!q->is_open_for_writing || !atomic_load(&q->is_active))
        return;
    err = qcow2_flush(format);
    if (!err && !atomic_load(&q->broken)) {
        qimg_mutex_lock(&q->alloc_lock);
        err = qcow2_alloc_release_reserve(q, q->first_file_bytes);
        if (!err)
            err = qimg_storage_sync(format->file);
        qimg_mutex_unlock(&q->alloc_lock);
    }
    if (err)
        g_warning("%s: not all could be written when it was closed: %s (run qemu-img "
                  "check)",
                  format->file->path, g_strerror(-err));
}

/* Whether the file holds @bytes at @host_offset. */
static bool
holds_bytes(Qcow2 *q, QimgIoPurpose purpose, uint64_t host_offset, const void *bytes,
            size_t n_bytes)
{
    uint8_t found[TABLE_SLICE_BYTES];

    for (size_t done = 0; done < n_bytes; done += sizeof found) {
        size_t n = qimg_min_u64(n_bytes - done, sizeof found);

        if (qimg_storage_read(q->base.file, purpose, qimg_host(host_offset + done), found,
                              n) ||
            memcmp(found, (const uint8_t *)bytes + done, n) != 0)
            return false;
    }
    return true;
}

QimgErrno
qcow2_write_or_undo(Qcow2 *q, QimgIoPurpose purpose, uint64_t host_offset,
                    const void *bytes, const void *old_bytes, size_t n_bytes)
{
    QimgErrno err =
        qimg_storage_write(q->base.file, purpose, qimg_host(host_offset), bytes, n_bytes);

    if (!err)
        return 0;
    /* In a hole of the file there is no room for the old bytes either, and no need. */
    if (qcow2_is_lack_of_space(err) &&
        (holds_bytes(q, purpose, host_offset, old_bytes, n_bytes) ||
         qimg_storage_write(q->base.file, purpose, qimg_host(host_offset), old_bytes,
                            n_bytes) == 0 ||
         holds_bytes(q, purpose, host_offset, old_bytes, n_bytes)))
        return err;
    return qcow2_break(q, err);
}

bool
qcow2_is_lack_of_space(QimgErrno err)
{
    return err == -ENOSPC || err == -EDQUOT || err == -EFBIG || err == -ENOMEM;
}

QimgErrno
qcow2_break(Qcow2 *q, QimgErrno err)
{
    if (!atomic_exchange(&q->broken, true))
        g_warning("%s: its tables could not be written: %s; it is read-only from now on "
                  "(look at the host's file system, then mount it again)",
                  q->base.file->path, g_strerror(-err));
    return err;
}

void
qcow2_report(Qcow2 *q, QimgRule rule, uint64_t host_offset)
{
    if (qimg_rule_set_add(&q->reported_rules, rule))
        g_warning("%s: %s: %s (host offset %" PRIu64
                  "; further places of this kind are not logged; run qimg check)",
                  q->base.file->path, qimg_rule_field(rule), qimg_rule_text(rule),
                  host_offset);
}

QimgErrno
qcow2_write_header_field(Qcow2 *q, uint64_t position, const void *bytes, size_t n_bytes)
{
    uint8_t old_bytes[QCOW2_MAX_FIELD_BYTES];
    QimgErrno err;

    g_assert(n_bytes <= sizeof old_bytes);
    err = qimg_storage_read(q->base.file, QIMG_IO_HEADER, qimg_host(position), old_bytes,
                            n_bytes);
    if (!err)
        err = qcow2_write_or_undo(q, QIMG_IO_HEADER, position, bytes, old_bytes, n_bytes);
    if (err)
        return err;
    err = qimg_storage_sync(q->base.file);
    return err ? qcow2_break(q, err) : 0;
}

QimgErrno
qcow2_store_incompatible(Qcow2 *q, uint64_t features)
{
    qimg_be64 field = qimg_be64_set(features);
    QimgErrno err;

    if (features == q->header.incompatible_features)
        return 0;
    err = qcow2_write_header_field(q, QCOW2_HEADER_AT_INCOMPATIBLE, &field, sizeof field);
    if (err)
        return err;
    q->header.incompatible_features = features;
    q->base.is_dirty = (features & QCOW2_INCOMPAT_DIRTY) != 0;
    q->base.is_corrupt = (features & QCOW2_INCOMPAT_CORRUPT) != 0;
    return 0;
}

QimgErrno
qcow2_set_dirty(Qcow2 *q, bool is_dirty)
{
    uint64_t features = q->header.incompatible_features & ~(uint64_t)QCOW2_INCOMPAT_DIRTY;

    if (q->header.version < 3 || (!is_dirty && q->stays_dirty))
        return 0;
    return qcow2_store_incompatible(q, is_dirty ? features | QCOW2_INCOMPAT_DIRTY
                                                : features);
}

QimgErrno
qcow2_mark_corrupt(Qcow2 *q, QimgRule rule, uint64_t host_offset)
{
    uint64_t features = q->header.incompatible_features | QCOW2_INCOMPAT_CORRUPT;
    qimg_be64 field = qimg_be64_set(features);

    qcow2_report(q, rule, host_offset);
    if (atomic_exchange(&q->broken, true))
        return -EIO;
    if (q->header.version < 3) {
        g_warning("%s: it is read-only from now on", q->base.file->path);
        return -EIO;
    }
    g_warning("%s: it is marked corrupt and read-only from now on", q->base.file->path);
    if (!qimg_storage_write(q->base.file, QIMG_IO_HEADER,
                            qimg_host(QCOW2_HEADER_AT_INCOMPATIBLE), &field,
                            sizeof field))
        (void)!qimg_storage_sync(q->base.file);
    return -EIO;
}

static QimgErrno
clear_autoclear_bits(Qcow2 *q)
{
    uint64_t kept = q->header.autoclear_features & KEPT_AUTOCLEAR_BITS;
    qimg_be64 field = qimg_be64_set(kept);
    QimgErrno err;

    if (q->header.version < 3 || kept == q->header.autoclear_features)
        return 0;
    err = qcow2_write_header_field(q, QCOW2_HEADER_AT_AUTOCLEAR, &field, sizeof field);
    if (!err)
        q->header.autoclear_features = kept;
    return err;
}

/* A file that ends before a cluster that is counted may be cut, and extending it would
 * turn what is missing into zeros; or the end of a machine has lost the length of
 * clusters that nobody uses yet. What the tables refer to tells. */
static QimgErrno
check_not_cut(Qcow2 *q)
{
    uint64_t n_clusters =
        qimg_div_round_up(q->first_file_bytes, q->geometry.cluster_bytes);
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

static QimgErrno
activate(Qcow2 *q) QIMG_REQUIRES(q->alloc_lock)
{
    QimgErrno err = qimg_storage_get_size(q->base.file, &q->first_file_bytes);

    if (!err)
        err = qcow2_refcount_load_table(q);
    if (!err && (q->header.incompatible_features & QCOW2_INCOMPAT_DIRTY))
        err = qcow2_repair_dirty(q);
    if (!err)
        err = check_not_cut(q);
    if (!err)
        err = qcow2_collect_metadata(q);
    if (!err)
        err = clear_autoclear_bits(q);
    return err;
}

/* Whether nothing may be written any more. */
static bool
is_broken(const Qcow2 *q)
{
    return atomic_load_explicit(&q->broken, memory_order_relaxed) ||
           atomic_load_explicit(&q->base.file->sync_error, memory_order_relaxed) ||
           (q->base.data_file &&
            atomic_load_explicit(&q->base.data_file->sync_error, memory_order_relaxed));
}

QimgErrno
qcow2_activate(Qcow2 *q)
{
    QimgErrno err = 0;

    if (is_broken(q))
        return -EROFS;
    /* Acquire pairs with the release below. */
    if (atomic_load_explicit(&q->is_active, memory_order_acquire))
        return 0;
    QIMG_LOCK_SCOPE(&q->alloc_lock);
    if (!atomic_load_explicit(&q->is_active, memory_order_relaxed))
        err = activate(q);
    if (!err)
        atomic_store_explicit(&q->is_active, true, memory_order_release);
    return err;
}
