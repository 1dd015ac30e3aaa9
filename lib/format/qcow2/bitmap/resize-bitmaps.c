/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* New tables for a disk of another size. */
#include "format/qcow2/bitmap/resize-bitmaps.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/scratch.h"
#include "format/qcow2/bitmap/directory-change.h"
#include "format/qcow2/bitmap/directory.h"
#include "format/qcow2/bitmap/session.h"
#include "format/qcow2/bitmap/store.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"

struct Qcow2BitmapsResize {
    uint64_t size_bytes;
    uint8_t *directory; /* owned: with the flags of the session */
    Qcow2BitmapsExtension to;
    GArray *gone; /* QimgClusters: tables and bits to be freed */
};

static bool
is_kept_up(const QimgFormatBitmap *b)
{
    return !b->facts.damage && !b->facts.is_in_use;
}

static uint64_t
entries_for(const Qcow2 *q, const QimgFormatBitmap *b, uint64_t size_bytes)
{
    return qcow2_bitmap_entries_for(size_bytes, b->granularity_bits,
                                    q->geometry.cluster_bytes);
}

QimgErrno
qcow2_check_bitmaps_size(const Qcow2 *q, uint64_t size_bytes)
{
    const Qcow2Tracker *t = q->tracker;

    if (!t || atomic_load(&t->is_dropped))
        return 0;
    for (unsigned i = 0; i < t->list->n; i++) {
        const QimgFormatBitmap *b = &t->list->items[i];

        if (!is_kept_up(b) || size_bytes == 0)
            return -EBUSY;
        if (qcow2_bitmap_bytes_for(size_bytes, b->granularity_bits) >
            QCOW2_MAX_BITMAP_BYTES)
            return -EFBIG;
    }
    return 0;
}

bool
qcow2_bitmaps_fit(const Qcow2 *q, uint64_t size_bytes)
{
    const Qcow2Tracker *t = q->tracker;

    if (!t || atomic_load(&t->is_dropped))
        return true;
    for (unsigned i = 0; i < t->list->n; i++)
        if (entries_for(q, &t->list->items[i], size_bytes) !=
            t->list->items[i].n_table_entries)
            return false;
    return true;
}

/* ---- one bitmap ---- */

/* Makes a cluster with the bits that @word stands for, of which only the first @n_bits
 * stay. */
static QimgErrno
cut_bits(Qcow2 *q, uint64_t *word, uint64_t n_bits, GArray *gone)
{
    uint64_t cluster_bytes = q->geometry.cluster_bytes;
    uint64_t old_offset = *word & QCOW2_BITMAP_OFFSET_MASK;
    uint8_t *bytes = qimg_scratch_get(QIMG_SCRATCH_FILL, cluster_bytes);
    QimgClusters run = {0};
    QimgErrno err = 0;

    if (!bytes)
        return -ENOMEM;
    memset(bytes, 0xff, cluster_bytes);
    if (old_offset)
        err = qimg_storage_read(q->base.file, QIMG_IO_BITMAP, qimg_host(old_offset),
                                bytes, cluster_bytes);
    if (!err)
        err = qcow2_alloc(q, 1, &run);
    if (err)
        return err;
    if (n_bits % 8)
        bytes[n_bits / 8] &= (uint8_t)((1u << n_bits % 8) - 1);
    memset(bytes + qimg_div_round_up(n_bits, 8), 0,
           cluster_bytes - qimg_div_round_up(n_bits, 8));
    *word = run.first_cluster << q->geometry.cluster_bits;
    if (old_offset)
        qimg_clusters_append(gone,
                             (QimgClusters){old_offset >> q->geometry.cluster_bits, 1});
    return qimg_storage_write(q->base.file, QIMG_IO_BITMAP, qimg_host(*word), bytes,
                              cluster_bytes);
}

/* Fits the @n_old entries in @words, which has room for more, to a disk of
 * @size_bytes. */
static QimgErrno
fit_words(Qcow2 *q, const QimgFormatBitmap *b, uint64_t *words, uint64_t size_bytes,
          GArray *gone)
{
    uint64_t n_chunk_bits = q->geometry.cluster_bytes * 8;
    uint64_t n_bits = ((size_bytes - 1) >> b->granularity_bits) + 1;
    uint64_t n_new = entries_for(q, b, size_bytes);
    uint64_t in_last = n_bits - (n_new - 1) * n_chunk_bits;

    for (uint64_t e = n_new; e < b->n_table_entries; e++)
        if (words[e] & QCOW2_BITMAP_OFFSET_MASK)
            qimg_clusters_append(gone,
                                 (QimgClusters){(words[e] & QCOW2_BITMAP_OFFSET_MASK) >>
                                                    q->geometry.cluster_bits,
                                                1});
    if (size_bytes < q->header.size_bytes && in_last < n_chunk_bits && words[n_new - 1])
        return cut_bits(q, &words[n_new - 1], in_last, gone);
    return 0;
}

/* Makes the new table of bitmap @b, whose entry in the directory is at @entry. */
static QimgErrno
make_bitmap_table(Qcow2 *q, const QimgFormatBitmap *b, Qcow2BitmapsResize *r,
                  uint8_t *entry)
{
    uint64_t n_new = entries_for(q, b, r->size_bytes);
    uint64_t n_words = qimg_max_u64(n_new, b->n_table_entries);
    g_autofree uint64_t *words = g_try_new0(uint64_t, n_words);
    uint64_t n_old_clusters =
        qimg_div_round_up((uint64_t)b->n_table_entries * 8, q->geometry.cluster_bytes);
    uint64_t first_cluster, host_offset;
    qimg_be64 offset_field;
    qimg_be32 n_field = qimg_be32_set((uint32_t)n_new);
    QimgErrno err;

    if (!words)
        return -ENOMEM;
    err = qimg_format_read_words(&q->base, QIMG_IO_BITMAP, b->table_offset, words,
                                 b->n_table_entries);
    if (!err)
        err = fit_words(q, b, words, r->size_bytes, r->gone);
    if (!err)
        err = qcow2_alloc_exactly(
            q, qimg_div_round_up(n_new * 8, q->geometry.cluster_bytes), &first_cluster);
    if (err)
        return err;
    host_offset = first_cluster << q->geometry.cluster_bits;
    qimg_host_to_be64_array(words, n_new);
    err = qimg_storage_write(q->base.file, QIMG_IO_BITMAP, qimg_host(host_offset), words,
                             n_new * 8);
    if (!err)
        err = qimg_format_metadata_add(&q->base, host_offset, n_new * 8);
    if (err)
        return err;
    qimg_clusters_append(
        r->gone,
        (QimgClusters){b->table_offset >> q->geometry.cluster_bits, n_old_clusters});
    offset_field = qimg_be64_set(host_offset);
    memcpy(entry, &offset_field, sizeof offset_field);
    memcpy(entry + sizeof offset_field, &n_field, sizeof n_field);
    return 0;
}

/* ---- all of them ---- */

static QimgErrno
make_all(Qcow2 *q, Qcow2BitmapsResize *r)
{
    const Qcow2Tracker *t = q->tracker;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    QimgErrno err = 0;

    r->directory = g_memdup2(t->directory, q->bitmaps.directory_bytes);
    r->to = q->bitmaps;
    for (unsigned i = 0; !err && i < t->list->n; i++) {
        const QimgFormatBitmap *b = &t->list->items[i];
        uint8_t *entry = r->directory + b->directory_position;
        qimg_be32 flags =
            qimg_be32_set(b->flags | (b->facts.is_enabled ? QCOW2_BITMAP_IN_USE : 0));

        err = make_bitmap_table(q, b, r, entry);
        memcpy(entry + QCOW2_BITMAP_AT_FLAGS, &flags, sizeof flags);
    }
    return err ? err
               : qcow2_write_bitmap_directory(q, r->directory, r->to.directory_bytes,
                                              &r->to.directory_offset);
}

QimgErrno
qcow2_prepare_bitmaps_resize(Qcow2 *q, uint64_t size_bytes, Qcow2BitmapsResize **out)
{
    Qcow2Tracker *t = q->tracker;
    QimgErrno err = qcow2_check_bitmaps_size(q, size_bytes);
    Qcow2BitmapsResize *r;

    *out = NULL;
    if (err || !t || atomic_load(&t->is_dropped) || size_bytes == q->header.size_bytes ||
        (size_bytes > q->header.size_bytes && qcow2_bitmaps_fit(q, size_bytes)))
        return err;
    err = qcow2_bitmaps_begin(t, true);
    if (err || atomic_load(&t->is_dropped))
        return err;
    qcow2_spill_bitmaps(&q->base);
    r = g_new0(Qcow2BitmapsResize, 1);
    r->size_bytes = size_bytes;
    r->gone = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    err = make_all(q, r);
    if (err)
        qcow2_abandon_bitmaps_resize(r);
    else
        *out = r;
    return err;
}

QimgErrno
qcow2_finish_bitmaps_resize(Qcow2 *q, Qcow2BitmapsResize *r)
{
    Qcow2Tracker *t = q->tracker;
    QimgBitmaps *list = NULL;
    uint8_t *directory = NULL;
    QimgErrno err;

    if (!r)
        return 0;
    err = qimg_storage_sync(q->base.file); /* the size */
    if (!err) {
        QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));

        err = qcow2_switch_bitmap_directory(q, &r->to);
    }
    if (!err)
        err = qcow2_read_bitmap_directory(q, &list, &directory);
    if (!err) {
        for (guint i = 0; i < r->gone->len; i++)
            qcow2_free_later(q, g_array_index(r->gone, QimgClusters, i));
        err = qcow2_tracker_adopt(t, list, directory);
    }
    qcow2_abandon_bitmaps_resize(r);
    return err;
}

void
qcow2_abandon_bitmaps_resize(Qcow2BitmapsResize *r)
{
    if (!r)
        return;
    g_array_unref(r->gone);
    g_free(r->directory);
    g_free(r);
}
