/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of the header's properties: the version, the width of refcounts, features,
 * names. All checks come first; new refcounts are made beside the old ones and are
 * durable before the header is replaced, by one write. Spec: qcow2 sections 2 and 7. */
#include "format/qcow2/amend.h"

#include <errno.h>
#include <string.h>

#include "base/errors.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/check/repair.h"
#include "format/qcow2/count/count.h"
#include "format/qcow2/layer/header-area.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc.h"

/* Bits whose guarantees do not depend on the header's other properties. */
#define KEPT_AUTOCLEAR                                                                   \
    ((uint64_t)(QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_DATA_FILE_RAW))
#define KNOWN_HEADER_BYTES 112u
#define V2_REFCOUNT_ORDER  4u

static bool
has_zero_entry(const uint64_t *words, uint64_t n_words)
{
    for (uint64_t i = 0; i < n_words; i++)
        if (!(words[i] & QCOW2_L2_COMPRESSED) && (words[i] & QCOW2_L2_ZERO))
            return true;
    return false;
}

/* Whether an L2 table, of the disk or of a snapshot, has a zero cluster. */
static QimgErrno
find_zero_clusters(Qcow2 *q, const QimgTask *task, bool *found_out)
{
    const Qcow2CountOptions options = {.is_for_check = true, .task = task};
    uint64_t n_words = q->geometry.cluster_bytes / sizeof(uint64_t);
    g_autofree uint64_t *words = g_try_malloc(q->geometry.cluster_bytes);
    Qcow2Counts counts = {0};
    QimgErrno err = words ? 0 : -ENOMEM;

    *found_out = false;
    if (err)
        return err;
    qimg_mutex_lock(qcow2_alloc_lock(q));
    err = qcow2_count_references(q, &options, &counts);
    qimg_mutex_unlock(qcow2_alloc_lock(q));
    if (!err && counts.n_unread > 0)
        err = -EIO;
    for (uint64_t c = 0; !err && !*found_out && c < counts.n_clusters; c++) {
        if (qcow2_counts_get_use(&counts, c) != QCOW2_USE_L2)
            continue;
        err = qimg_format_read_words(&q->base, QIMG_IO_L2, c << q->geometry.cluster_bits,
                                     words, n_words);
        *found_out = !err && has_zero_entry(words, n_words);
    }
    qcow2_counts_clear(&counts);
    return err;
}

static bool
has_snapshot_of_other_size(const Qcow2 *q)
{
    for (unsigned i = 0; i < q->base.snapshots->n; i++)
        if (q->base.snapshots->items[i].facts.disk_bytes != q->header.size_bytes)
            return true;
    return false;
}

/* The property, in the words of an error, that version 2 cannot express; NULL: none. */
static const char *
find_version_3_property(Qcow2 *q, const Qcow2Header *h)
{
    uint64_t incompatible = qcow2_get_incompatible(q);

    if (incompatible & QCOW2_INCOMPAT_DIRTY)
        return "the dirty bit, which is set (repair it first with qimg check -r all)";
    if (incompatible & QCOW2_INCOMPAT_DATA_FILE)
        return "a data file";
    if (incompatible & QCOW2_INCOMPAT_COMPRESSION)
        return "zstd compression";
    if (incompatible & QCOW2_INCOMPAT_EXTENDED_L2)
        return "subclusters (extended_l2)";
    if (q->bitmaps.n_bitmaps > 0 || q->has_damaged_bitmaps)
        return "bitmaps (remove them first with qimg bitmap --remove)";
    if (h->refcount_order != V2_REFCOUNT_ORDER)
        return "refcounts of other than 16 bits (give refcount_bits=16, too)";
    if (h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS)
        return "lazy refcounts (give lazy_refcounts=off, too)";
    if (has_snapshot_of_other_size(q))
        return "snapshots of a disk of another size";
    if (q->header.header_bytes > KNOWN_HEADER_BYTES)
        return "fields of the header that are unknown here";
    return NULL;
}

static bool
check_version_2(Qcow2 *q, const Qcow2Header *h, const QimgTask *task, GError **error)
{
    const char *property = find_version_3_property(q, h);
    bool has_zeros = false;
    QimgErrno err = 0;

    if (!property && q->header.version >= 3)
        err = find_zero_clusters(q, task, &has_zeros);
    if (err) {
        qimg_set_error_errno(error, -err, "look with qimg check", "compat=0.10");
        return false;
    }
    if (!property && has_zeros)
        property = "zero clusters";
    if (property)
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "compat=0.10: version 2 of the format has no place for %s",
                       property);
    return !property;
}

static bool
check_changed_names(const Qcow2 *q, const QimgHeaderChange *change, GError **error)
{
    size_t name_bytes = change->backing_name ? strlen(change->backing_name) : 0;
    size_t format_bytes = change->backing_format ? strlen(change->backing_format) : 0;

    if (change->sets_backing && name_bytes > QCOW2_MAX_BACKING_NAME)
        return qimg_misuse(error,
                           "backing_file: has %zu bytes, more than the %u that fit",
                           name_bytes, QCOW2_MAX_BACKING_NAME);
    if (change->sets_backing && format_bytes > QCOW2_MAX_BACKING_FORMAT)
        return qimg_misuse(error, "backing_fmt: has %zu bytes, more than the %u that fit",
                           format_bytes, QCOW2_MAX_BACKING_FORMAT);
    if (change->sets_backing && change->backing_name && q->base.has_raw_data_file)
        return qimg_misuse(error,
                           "backing_file: the image's data file is the whole disk "
                           "(data_file_raw), and would not be with a backing file");
    if (change->data_file_name && !q->base.needs_data_file)
        return qimg_misuse(error,
                           "data_file: the image has its data in its own file, and "
                           "they are not moved (copy it to a new image)");
    if (change->data_file_name && !*change->data_file_name)
        return qimg_misuse(error, "data_file: is empty");
    return true;
}

static bool
check_change(Qcow2 *q, const QimgHeaderChange *change, const Qcow2Header *h,
             const QimgTask *task, GError **error)
{
    uint64_t incompatible = qcow2_get_incompatible(q);

    if (incompatible & QCOW2_INCOMPAT_CORRUPT) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is marked corrupt, and is left as it is (repair it first with "
                       "qimg check -r all)");
        return false;
    }
    if (change->data_file_raw == 1 && !q->base.has_raw_data_file)
        return qimg_misuse(error,
                           "data_file_raw=on: cannot be had for an existing image, "
                           "whose data file need not be the whole disk (copy it to "
                           "a new image)");
    if (h->refcount_order != q->header.refcount_order &&
        (incompatible & QCOW2_INCOMPAT_DIRTY)) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "refcount_bits: the image was not closed properly (repair it "
                       "first with qimg check -r all)");
        return false;
    }
    if (!check_changed_names(q, change, error))
        return false;
    return h->version >= 3 || check_version_2(q, h, task, error);
}

/* The header as @change makes it, without names. */
static Qcow2Header
changed_header(const Qcow2 *q, const QimgHeaderChange *change)
{
    Qcow2Header h = q->header;

    if (change->version)
        h.version = change->version;
    if (change->refcount_order != QIMG_FIELD_STAYS)
        h.refcount_order = (uint32_t)change->refcount_order;
    if (change->lazy_refcounts == 1)
        h.compatible_features |= QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (change->lazy_refcounts == 0)
        h.compatible_features &= ~(uint64_t)QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (change->data_file_raw == 0)
        h.autoclear_features &= ~(uint64_t)QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    return h;
}

static bool
is_header_changed(const Qcow2 *q, const QimgHeaderChange *change, const Qcow2Header *h)
{
    return h->version != q->header.version ||
           h->refcount_order != q->header.refcount_order ||
           h->compatible_features != q->header.compatible_features ||
           h->autoclear_features != q->header.autoclear_features ||
           (change->sets_backing &&
            (g_strcmp0(change->backing_name, q->base.backing_name) != 0 ||
             g_strcmp0(change->backing_format, q->base.backing_format) != 0)) ||
           (change->data_file_name &&
            g_strcmp0(change->data_file_name, q->base.data_file_name) != 0);
}

/* Makes the refcounts for @h, if their width changes, and stores their place in it. */
static bool
make_refcounts(Qcow2 *q, Qcow2Header *h, const QimgTask *task, GError **error)
{
    Qcow2RefcountPlace place;
    QimgErrno err;

    if (h->refcount_order == q->header.refcount_order)
        return true;
    err = qcow2_make_refcounts(q, h->refcount_order, task, &place);
    if (err == -ERANGE)
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "refcount_bits=%u: snapshots share a cluster more often than such "
                       "a refcount can count",
                       1u << h->refcount_order);
    else if (err == -EFBIG)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "refcount_bits=%u: the file is too large for such refcounts with "
                       "clusters of this size",
                       1u << h->refcount_order);
    else if (err)
        qimg_set_error_errno(error, -err, "look with qimg check", "refcount_bits=%u",
                             1u << h->refcount_order);
    if (err)
        return false;
    h->refcount_table_offset = place.table_offset;
    h->n_refcount_table_clusters = place.n_table_clusters;
    return true;
}

bool
qcow2_change_header(QimgFormat *format, const QimgHeaderChange *change,
                    const QimgTask *task, GError **error)
{
    Qcow2 *q = (Qcow2 *)format;
    Qcow2Header h = changed_header(q, change);
    const char *name = change->sets_backing ? change->backing_name : format->backing_name;
    const char *name_format =
        change->sets_backing ? change->backing_format : format->backing_format;

    if (!check_change(q, change, &h, task, error))
        return false;
    if (!is_header_changed(q, change, &h))
        return true;
    if (!make_refcounts(q, &h, task, error))
        return false;
    if (h.version < 3)
        h.compatible_features = h.autoclear_features = 0;
    h.autoclear_features &= KEPT_AUTOCLEAR;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    return qcow2_replace_header(
        q, &h, name, name ? name_format : NULL,
        change->data_file_name ? change->data_file_name : format->data_file_name, error);
}
