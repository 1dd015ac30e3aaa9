/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disk's size: a larger L1 table, or a shorter disk. Everything here except
 * qcow2_grow runs with the gate closed, so no other thread uses the layer. Spec:
 * qcow2-write sections 5 and 10. */
#include "format/qcow2/write/resize.h"

#include <errno.h>
#include <limits.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/scratch.h"
#include "base/zeros.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/bitmap/resize-bitmaps.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/layer/qcow2.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"
#include "format/qcow2/tables/tables.h"
#include "format/qcow2/write/data-zeros.h"
#include "format/qcow2/write/flush.h"
#include "format/qcow2/write/old-entry.h"

/* A larger growth at once is not gradual growth. */
#define MAX_STEP_BYTES QIMG_MIB

static QimgErrno
copy_l1(Qcow2 *q, uint64_t to_offset)
{
    const QimgView *view = &q->base.active;
    QimgErrno err = qimg_format_settle(&q->base);

    if (!err)
        err = qcow2_copy_table(q, QIMG_IO_L1, view->l1_table_offset.v, to_offset,
                               (uint64_t)view->n_l1_entries * 8, 0);
    return err ? err : qimg_storage_sync(q->base.file);
}

/* Makes the header refer to the L1 table of @n_entries at @offset. */
static QimgErrno
switch_l1(Qcow2 *q, uint64_t offset, uint32_t n_entries)
{
    struct {
        qimg_be32 n_entries;
        qimg_be64 offset;
    } field = {qimg_be32_set(n_entries), qimg_be64_set(offset)};
    QimgErrno err = qcow2_write_header_field(q, QCOW2_HEADER_AT_L1, &field, sizeof field);

    if (err)
        return err;
    qcow2_header_to_change(q)->l1_table_offset = offset;
    qcow2_header_to_change(q)->n_l1_entries = n_entries;
    q->base.active.l1_table_offset = qimg_host(offset);
    q->base.active.n_l1_entries = n_entries;
    q->base.active.n_l1_entries_in_file = n_entries;
    return 0;
}

/* Moves the L1 table to a place for at least @n_needed entries. Under alloc_lock. */
static QimgErrno
grow_l1(Qcow2 *q, uint64_t n_needed)
{
    unsigned bits = q->geometry.cluster_bits;
    QimgClusters old = {q->base.active.l1_table_offset.v >> bits,
                        qimg_div_round_up((uint64_t)q->base.active.n_l1_entries * 8,
                                          q->geometry.cluster_bytes)};
    /* To the end of its last cluster, so that small steps move it seldom. */
    uint64_t n_clusters = qimg_div_round_up(n_needed * 8, q->geometry.cluster_bytes);
    uint64_t n_entries = qimg_min_u64(n_clusters << bits >> 3, QCOW2_MAX_L1_BYTES / 8);
    uint64_t first_cluster;
    QimgErrno err = qcow2_alloc_exactly(q, n_clusters, &first_cluster);

    if (err)
        return err;
    qcow2_forget_table(q, TABLE_L1, first_cluster << bits, n_clusters << bits);
    err = qimg_format_metadata_add(&q->base, first_cluster << bits, n_clusters << bits);
    if (!err)
        err = copy_l1(q, first_cluster << bits);
    if (!err)
        err = switch_l1(q, first_cluster << bits, (uint32_t)n_entries);
    if (err) {
        qimg_format_metadata_remove(&q->base, first_cluster << bits, n_clusters << bits);
        qcow2_free_later(q, (QimgClusters){first_cluster, n_clusters});
        return err;
    }
    if (old.n_clusters > 0)
        qcow2_free_later(q, old);
    return 0;
}

static bool
can_resize(const Qcow2 *q)
{
    /* Entries of the snapshot table do not record a disk's size in version 2. */
    return q->header.version >= 3 || q->header.n_snapshots == 0;
}

QimgErrno
qcow2_extend_tables(QimgFormat *format, uint64_t size_bytes)
{
    Qcow2 *q = (Qcow2 *)format;
    uint64_t n_needed = qcow2_geometry_l1_entries_for(&q->geometry, size_bytes);
    QimgErrno err;

    if (!can_resize(q))
        return -EOPNOTSUPP;
    if (n_needed > QCOW2_MAX_L1_BYTES / 8 || n_needed > INT_MAX)
        return -EFBIG;
    err = qcow2_check_bitmaps_size(q, size_bytes);
    if (!err)
        err = qcow2_begin_change(q);
    if (err || n_needed <= format->active.n_l1_entries)
        return err;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    return grow_l1(q, n_needed);
}

/* ---- cutting off ----------------------------------------------------------------------
 */

/* Checks the entries in @words, for the clusters from @guest_offset on, so that only
 * valid references are dropped. */
static QimgErrno
check_words(Qcow2 *q, const uint64_t *words, uint64_t n_words, uint64_t guest_offset)
{
    uint64_t step = q->geometry.l2_entry_words;

    for (uint64_t w = 0; w < n_words; w += step) {
        QimgErrno err =
            words[w]
                ? qcow2_check_entry(q, words[w], step == 2 ? words[w + 1] : 0,
                                    guest_offset + (w / step << q->geometry.cluster_bits))
                : 0;

        if (err)
            return err;
    }
    return 0;
}

/* Drops all references of the L2 table of @l1_index from entry @from on; @clears: zeroes
 * the entries first, because the table stays. */
static QimgErrno
free_entries(Qcow2 *q, uint64_t l1_index, uint64_t table_offset, uint64_t from,
             bool clears)
{
    const uint64_t *zeros = (const uint64_t *)(const void *)qimg_zeros;
    const Qcow2Geometry *g = &q->geometry;
    uint64_t n_table_words = g->l2_entry_words << g->l2_bits;
    QimgErrno err = 0;

    for (uint64_t w = from * g->l2_entry_words; !err && w < n_table_words;) {
        uint64_t in_slice = w % q->slice_words;
        uint64_t n = q->slice_words - in_slice;
        uint64_t words[TABLE_SLICE_WORDS];
        Qcow2L2Slice slice = {0};

        err = qcow2_l2_pin(q, table_offset, w / g->l2_entry_words, &slice);
        if (!err) {
            qcow2_l2_load_words(&slice.slice, in_slice, g->l2_entry_words, words, n);
            err = check_words(q, words, n,
                              (l1_index << g->l1_shift) +
                                  (w / g->l2_entry_words << g->cluster_bits));
        }
        if (!err && clears)
            err = qcow2_l2_store(q, &slice, in_slice, zeros, n,
                                 (Qcow2L2Order){.is_bitmap_first = true});
        table_slice_unpin(&slice.slice);
        for (uint64_t i = 0; !err && i < n; i += g->l2_entry_words)
            qcow2_free_entry_later(q, words[i]);
        w += n;
    }
    return err;
}

/* Empties the L2 table from entry @from on; it may be shared until then. */
static QimgErrno
clear_entries(Qcow2 *q, uint64_t l1_index, uint64_t from)
{
    uint64_t table_offset;
    bool is_private;
    QimgErrno err = qcow2_find_l2_table(q, l1_index, &table_offset, &is_private);

    if (err || !table_offset)
        return err;
    err = qcow2_ensure_l2_table(q, l1_index, &table_offset);
    return err ? err : free_entries(q, l1_index, table_offset, from, true);
}

/* Drops a whole L2 table with all its references. */
static QimgErrno
drop_table(Qcow2 *q, uint64_t l1_index)
{
    uint64_t table_offset;
    bool is_private;
    QimgErrno err = qcow2_find_l2_table(q, l1_index, &table_offset, &is_private);

    if (err || !table_offset)
        return err;
    qimg_mutex_lock(qcow2_alloc_lock(q));
    err = qcow2_l1_store(q, l1_index, 0, false);
    qimg_mutex_unlock(qcow2_alloc_lock(q));
    if (!err)
        err = free_entries(q, l1_index, table_offset, 0, false);
    if (!err)
        qcow2_free_later(q, (QimgClusters){table_offset >> q->geometry.cluster_bits, 1});
    return err;
}

/* Unmaps everything from @size_bytes to @old_size_bytes, except the cluster with the new
 * end. */
static QimgErrno
unmap_tail(Qcow2 *q, uint64_t size_bytes, uint64_t old_size_bytes, const QimgTask *task)
{
    const Qcow2Geometry *g = &q->geometry;
    uint64_t first_cluster = qimg_div_round_up(size_bytes, g->cluster_bytes);
    uint64_t l1_index = first_cluster >> g->l2_bits;
    uint64_t l2_index = first_cluster & ((UINT64_C(1) << g->l2_bits) - 1);
    uint64_t n_l1 = qcow2_geometry_l1_entries_for(g, old_size_bytes);
    uint64_t first = l1_index;
    QimgErrno err = 0;

    if (l2_index > 0 && l1_index < n_l1)
        err = clear_entries(q, l1_index++, l2_index);
    for (; !err && l1_index < n_l1; l1_index++) {
        err = qimg_task_step(task, l1_index - first, n_l1 - first);
        if (!err)
            err = drop_table(q, l1_index);
        if (!err && qcow2_wants_flush(&q->base))
            err = qcow2_flush(&q->base);
    }
    return err ? err : qcow2_flush(&q->base);
}

/* Frees the range behind the disk's new end. The size is durable before: if an entry were
 * dropped first and the change interrupted, the backing file would show at the end of the
 * disk. Clusters that are still mapped behind the end then are unused until growing the
 * disk clears them. (QEMU stores the size last.) */
static QimgErrno
cut_off(Qcow2 *q, uint64_t size_bytes, uint64_t old_size_bytes, const QimgTask *task)
{
    QimgErrno err = qimg_storage_sync(q->base.file);

    qcow2_data_zeros_clear(q);
    /* First: unlike the tables, it takes no room. */
    if (!err && q->base.data_file)
        err = qimg_storage_set_size(q->base.data_file, size_bytes);
    if (!err)
        err = unmap_tail(q, size_bytes, old_size_bytes, task);
    if (err)
        return err;
    /* Frees the tail of the file, too. */
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    return qcow2_alloc_release_reserve(q, 0);
}

/* Not synced: the range that a larger size shows is durable already. */
static QimgErrno
store_size(Qcow2 *q, uint64_t size_bytes)
{
    qimg_be64 field = qimg_be64_set(size_bytes);
    qimg_be64 old_field = qimg_be64_set(q->header.size_bytes);
    QimgErrno err = qimg_format_write_or_undo(
        &q->base, QIMG_IO_HEADER, QCOW2_HEADER_AT_SIZE, &field, &old_field, sizeof field);

    if (err)
        return err;
    qcow2_header_to_change(q)->size_bytes = size_bytes;
    qimg_view_set_size_bytes(&q->base.active, size_bytes);
    return 0;
}

/* Extends the data file to the disk's new end, durably, with zeros there: a device, or a
 * file that was not truncated, may hold anything behind the disk's end. For a gradually
 * growing disk the file is extended ahead of it, until writing ends. The bytes of an
 * encrypted one stay, since no entry tells of them but that of the old last cluster,
 * whose rest is encrypted zeros by now. */
static QimgErrno
grow_data_file(Qcow2 *q, uint64_t size_bytes, uint64_t old_size_bytes)
{
    QimgStorage *data_file = q->base.data_file;
    uint64_t start = qimg_max_u64(old_size_bytes, qcow2_data_zeros_end(q));
    uint64_t end = size_bytes;
    QimgErrno err = -ENOSPC;

    if (size_bytes <= qcow2_data_zeros_end(q))
        return 0;
    if (size_bytes - old_size_bytes <= MAX_STEP_BYTES) {
        end += qcow2_alloc_next_bytes(q);
        err = qimg_storage_set_size(data_file, end);
    }
    if (err) {
        end = size_bytes;
        err = qimg_storage_set_size(data_file, end);
    }
    if (!err && !q->base.encryption)
        err = qimg_storage_zero(data_file, QIMG_IO_DATA, qimg_host(start), end - start);
    if (!err)
        err = qimg_storage_sync(data_file);
    if (err)
        return err;
    qcow2_data_zeros_add(q, start, end);
    if (q->base.encryption)
        qcow2_data_zeros_forget(q);
    return 0;
}

QimgErrno
qcow2_resize(QimgFormat *format, uint64_t size_bytes, const QimgTask *task)
{
    Qcow2 *q = (Qcow2 *)format;
    uint64_t old_size_bytes = q->header.size_bytes;
    Qcow2BitmapsResize *bitmaps = NULL;
    QimgErrno err;

    if (!can_resize(q))
        return -EOPNOTSUPP;
    if (!qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, &size_bytes))
        return -EFBIG;
    err = qcow2_begin_change(q);
    if (!err)
        err = qcow2_prepare_bitmaps_resize(q, size_bytes, &bitmaps);
    if (!err && format->data_file && size_bytes > old_size_bytes)
        err = grow_data_file(q, size_bytes, old_size_bytes);
    if (!err)
        err = store_size(q, size_bytes);
    if (err)
        qcow2_abandon_bitmaps_resize(bitmaps);
    else
        err = qcow2_finish_bitmaps_resize(q, bitmaps);
    if (err || size_bytes >= old_size_bytes)
        return err;
    err = cut_off(q, size_bytes, old_size_bytes, task);
    /* Sharing tables takes room. The disk is smaller all the same; clusters that could
     * not be freed are freed when it grows again. */
    return qimg_is_lack_of_space(err) ? 0 : err;
}

QimgErrno
qcow2_grow(QimgFormat *format, uint64_t size_bytes)
{
    Qcow2 *q = (Qcow2 *)format;
    QimgErrno err;

    if (!can_resize(q))
        return -EOPNOTSUPP;
    if (!qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, &size_bytes))
        return -EFBIG;
    if (format->data_file && size_bytes > qcow2_data_zeros_end(q))
        return -EAGAIN;
    err = qcow2_check_bitmaps_size(q, size_bytes);
    if (!err && !qcow2_bitmaps_fit(q, size_bytes))
        err = -EAGAIN;
    if (!err)
        err = qcow2_begin_change(q);
    return err ? err : store_size(q, size_bytes);
}

QimgErrno
qcow2_make_empty(QimgFormat *format, const QimgTask *task)
{
    Qcow2 *q = (Qcow2 *)format;
    QimgErrno err = qcow2_begin_change(q);

    if (err)
        return err;
    qcow2_data_zeros_clear(q);
    err = unmap_tail(q, 0, q->header.size_bytes, task);
    if (err)
        return err;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    return qcow2_alloc_release_reserve(q, 0);
}
