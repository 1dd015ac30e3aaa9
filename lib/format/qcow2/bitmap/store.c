/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Storing bits. All with the gate closed, so no bit is set meanwhile. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qcow2/bitmap/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/scratch.h"
#include "format/qcow2/bitmap/bits.h"
#include "format/qcow2/bitmap/directory.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"

#define TABLE_WRITE_BYTES (64 * QIMG_KIB)

static uint64_t
host_offset_of(uint64_t word)
{
    return word & QCOW2_BITMAP_OFFSET_MASK;
}

/* ---- one cluster of bits ---- */

/* Sets entry @e of the table to @word; adds the clusters of the old value to @gone. */
static void
set_word(Qcow2Tracker *t, Qcow2TrackedBitmap *b, uint64_t e, uint64_t word, GArray *gone)
{
    uint64_t old = host_offset_of(b->table[e]);

    b->table[e] = word;
    if (old != 0 && old != host_offset_of(word))
        qimg_clusters_append(gone, (QimgClusters){old >> t->q->geometry.cluster_bits, 1});
}

/* A place for the bits of entry @e: the cluster that this process has written already,
 * since its content is invalid while the bitmap is in use; else a new cluster, since in a
 * damaged image the old one may hold guest data. */
static QimgErrno
choose_place(Qcow2Tracker *t, const Qcow2TrackedBitmap *b, uint64_t e,
             uint64_t *host_offset_out)
{
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(t->q));
    QimgClusters run;
    QimgErrno err;

    if (b->table[e] & QCOW2_TRACK_OWNED) {
        *host_offset_out = host_offset_of(b->table[e]);
        return 0;
    }
    err = qcow2_alloc(t->q, 1, &run);
    if (!err)
        *host_offset_out = run.first_cluster << t->q->geometry.cluster_bits;
    return err;
}

/* Stores the bits of entry @e, joined with those in the file. */
static QimgErrno
store_chunk(Qcow2Tracker *t, Qcow2TrackedBitmap *b, uint64_t e, const uint64_t *chunk,
            GArray *gone)
{
    uint64_t cluster_bytes = t->q->geometry.cluster_bytes;
    uint64_t host_offset = host_offset_of(b->table[e]);
    uint64_t *words = qimg_scratch_get(QIMG_SCRATCH_FILL, cluster_bytes);
    QimgErrno err = 0;

    if (!words)
        return -ENOMEM;
    if (host_offset != 0)
        err = qimg_storage_read(t->q->base.file, QIMG_IO_BITMAP, qimg_host(host_offset),
                                words, cluster_bytes);
    else
        memset(words, 0, cluster_bytes);
    if (err)
        return err;
    qimg_le64_array_to_host(words, cluster_bytes / 8);
    for (uint64_t w = 0; w < cluster_bytes / 8; w++)
        words[w] |= chunk[w];
    qimg_le64_array_to_host(words, cluster_bytes / 8); /* its own inverse */
    /* Except if the disk ends within the entry: when it grows, the added part is
     * clean. */
    if (qcow2_bits_find_other((const uint8_t *)words, 0, cluster_bytes * 8, true) ==
        cluster_bytes * 8) {
        set_word(t, b, e, 1, gone);
        return 0;
    }
    err = choose_place(t, b, e, &host_offset);
    if (!err)
        err = qimg_storage_write(t->q->base.file, QIMG_IO_BITMAP, qimg_host(host_offset),
                                 words, cluster_bytes);
    if (err)
        return err; /* a new cluster is leaked: the image is full, or its file fails */
    set_word(t, b, e, host_offset | QCOW2_TRACK_OWNED, gone);
    return 0;
}

/* ---- one bitmap ---- */

/* Writes entries [@first, @end) of the table to the file. */
static QimgErrno
write_words(Qcow2Tracker *t, const Qcow2TrackedBitmap *b, uint64_t first, uint64_t end)
{
    const QimgFormatBitmap *item = &t->list->items[b->place];
    uint64_t *words = qimg_scratch_get(QIMG_SCRATCH_TABLE, TABLE_WRITE_BYTES);
    uint64_t n;

    if (!words)
        return -ENOMEM;
    for (; first < end; first += n) {
        QimgErrno err;

        n = qimg_min_u64(end - first, TABLE_WRITE_BYTES / 8);
        for (uint64_t i = 0; i < n; i++)
            words[i] = b->table ? b->table[first + i] & ~QCOW2_TRACK_OWNED : 1;
        qimg_host_to_be64_array(words, n);
        err = qimg_storage_write(t->q->base.file, QIMG_IO_BITMAP,
                                 qimg_host(item->table_offset + first * 8), words, n * 8);
        if (err)
            return err;
    }
    return 0;
}

/* Sets all bits of a bitmap whose table is not in memory: reads the clusters it refers to
 * from the file, and frees them. */
static QimgErrno
store_all_ones(Qcow2Tracker *t, Qcow2TrackedBitmap *b)
{
    const QimgFormatBitmap *item = &t->list->items[b->place];
    uint64_t n;

    for (uint64_t e = 0; e < b->n_entries; e += n) {
        uint64_t words[512];
        QimgErrno err;

        n = qimg_min_u64(b->n_entries - e, G_N_ELEMENTS(words));
        err = qimg_format_read_words(&t->q->base, QIMG_IO_BITMAP,
                                     item->table_offset + e * 8, words, n);
        if (!err)
            err = write_words(t, b, e, e + n);
        if (err)
            return err;
        for (uint64_t i = 0; i < n; i++)
            if (host_offset_of(words[i]))
                qcow2_free_later(t->q, (QimgClusters){host_offset_of(words[i]) >>
                                                          t->q->geometry.cluster_bits,
                                                      1});
    }
    return 0;
}

static void
drop_chunk(Qcow2Tracker *t, Qcow2TrackedBitmap *b, uint64_t e, uint64_t *chunk)
{
    if (chunk && chunk != QCOW2_TRACK_ONES) {
        free(chunk);
        atomic_fetch_sub_explicit(&t->n_bytes, t->q->geometry.cluster_bytes,
                                  memory_order_relaxed);
    }
    atomic_store_explicit(&b->chunks[e], b->table[e] == 1 ? QCOW2_TRACK_ONES : NULL,
                          memory_order_relaxed);
}

/* Stores the bits of @b, without a sync: first all clusters of bits, then the entries. */
static QimgErrno
store_bits(Qcow2Tracker *t, Qcow2TrackedBitmap *b)
{
    bool is_all = atomic_load_explicit(&b->is_all, memory_order_relaxed);
    g_autoptr(GArray) gone = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    uint64_t first = b->n_entries, end = 0;
    QimgErrno err = 0;

    if (!b->table)
        return store_all_ones(t, b);
    for (uint64_t e = 0; !err && e < b->n_entries; e++) {
        uint64_t *chunk = atomic_load_explicit(&b->chunks[e], memory_order_relaxed);

        if (chunk == QCOW2_TRACK_ONES || (!chunk && !is_all))
            continue;
        if (is_all)
            set_word(t, b, e, 1, gone);
        else
            err = store_chunk(t, b, e, chunk, gone);
        if (!err) {
            drop_chunk(t, b, e, chunk);
            first = qimg_min_u64(first, e);
            end = e + 1;
        }
    }
    if (first < end && !err)
        /* The refcounts and the bits are durable before an entry refers to them. */
        err = qimg_storage_sync(t->q->base.file);
    if (first < end && !err)
        err = write_words(t, b, first, end);
    /* After a failure the bits in the file are unknown: extra bits are always safe. */
    atomic_store_explicit(&b->is_all, err != 0, memory_order_relaxed);
    for (guint i = 0; !err && i < gone->len; i++)
        qcow2_free_later(t->q, g_array_index(gone, QimgClusters, i));
    return err;
}

static QimgErrno
store_all_bits(Qcow2Tracker *t)
{
    QimgErrno err = 0;

    for (unsigned i = 0; !err && i < t->n_tracked; i++)
        err = store_bits(t, &t->tracked[i]);
    return err;
}

static void
tell_failure(Qcow2Tracker *t, QimgErrno err)
{
    if (!t->is_told)
        g_warning("%s: its bitmaps could not be stored: %s; they stay marked as in use "
                  "(the disk is not affected)",
                  t->q->base.file->path, g_strerror(-err));
    t->is_told = true;
}

void
qcow2_spill_bitmaps(QimgFormat *format)
{
    Qcow2Tracker *t = ((Qcow2 *)format)->tracker;
    QimgErrno err = 0;

    if (t && atomic_load(&t->is_session) && !qimg_format_is_broken(format))
        err = store_all_bits(t);
    if (err)
        tell_failure(t, err);
}

void
qcow2_store_bitmaps(Qcow2Tracker *t)
{
    QimgErrno err = 0;

    if (!t || !atomic_load(&t->is_session) || atomic_load(&t->is_dropped) ||
        qimg_format_is_broken(&t->q->base))
        return;
    err = store_all_bits(t);
    if (!err)
        err = qimg_storage_sync(t->q->base.file);
    if (!err) /* if this fails, IN_USE is unknown from here on */
        atomic_store(&t->is_session, false);
    for (unsigned i = 0; !err && i < t->list->n; i++) {
        const QimgFormatBitmap *b = &t->list->items[i];

        if (!b->facts.damage && !b->facts.is_in_use &&
            (b->facts.is_enabled || t->has_marked_disabled))
            err = qcow2_write_bitmap_flags(t->q, b, b->flags);
    }
    if (!err)
        err = qimg_storage_sync(t->q->base.file);
    if (err)
        tell_failure(t, err);
    else
        t->has_marked_disabled = false;
}
