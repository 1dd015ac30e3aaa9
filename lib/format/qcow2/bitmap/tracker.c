/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of a tracker, and bits in memory. */
#include "format/qcow2/bitmap/tracker.h"

#include <errno.h>
#include <stdlib.h>

#include "base/errors.h"
#include "format/qcow2/bitmap/directory.h"

/* Of an image that got its first bitmap after it was opened. */
#define DEFAULT_MAX_BYTES (64 * QIMG_MIB)

uint64_t qcow2_track_ones;

/* ---- life ---- */

bool
qcow2_tracker_open(Qcow2 *q, uint64_t max_bytes, GError **error)
{
    g_autoptr(QimgBitmaps) list = NULL;
    g_autofree uint8_t *directory = NULL;
    Qcow2Tracker *t;
    QimgErrno err;

    if (!(q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) ||
        (!q->has_damaged_bitmaps && q->bitmaps.n_bitmaps == 0) || q->header.version < 3)
        return true;
    err = qcow2_read_bitmap_directory(q, &list, &directory);
    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read the directory of bitmaps");
        return false;
    }
    if (list->damage) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "bitmaps extension: %s, so the image must not be written to (give "
                       "its bitmaps up with the option bitmaps=drop, or mount it "
                       "read-only)",
                       list->damage);
        return false;
    }
    t = g_new0(Qcow2Tracker, 1);
    t->q = q;
    t->max_bytes = max_bytes;
    t->list = g_steal_pointer(&list);
    t->directory = g_steal_pointer(&directory);
    qimg_mutex_init(&t->lock, QIMG_RANK_BITMAPS);
    qimg_cond_init(&t->wakes);
    q->tracker = t;
    return true;
}

void
qcow2_tracker_forget(Qcow2Tracker *t)
{
    for (unsigned i = 0; i < t->n_tracked; i++) {
        Qcow2TrackedBitmap *b = &t->tracked[i];

        for (uint64_t e = 0; b->chunks && e < b->n_entries; e++) {
            uint64_t *chunk = atomic_load_explicit(&b->chunks[e], memory_order_relaxed);

            if (chunk != QCOW2_TRACK_ONES)
                free(chunk);
        }
        free((void *)b->chunks);
        free(b->table);
    }
    g_clear_pointer(&t->tracked, g_free);
    t->n_tracked = 0;
    atomic_store(&t->n_bytes, 0);
    atomic_store(&t->is_loaded, false);
}

void
qcow2_tracker_end(Qcow2Tracker *t)
{
    bool has_thread;

    if (!t)
        return;
    qimg_mutex_lock(&t->lock);
    has_thread = t->has_thread;
    t->is_ending = true;
    t->has_thread = false;
    qimg_cond_signal(&t->wakes);
    qimg_mutex_unlock(&t->lock);
    if (has_thread)
        pthread_join(t->thread, NULL);
}

void
qcow2_tracker_free(Qcow2Tracker *t)
{
    if (!t)
        return;
    qcow2_tracker_end(t);
    qcow2_tracker_forget(t);
    qimg_bitmaps_unref(t->list);
    qimg_cond_clear(&t->wakes);
    qimg_mutex_clear(&t->lock);
    g_free(t->directory);
    g_free(t);
}

QimgErrno
qcow2_tracker_add_metadata(Qcow2Tracker *t)
{
    QimgErrno err;
    Qcow2 *q;

    if (!t || t->q->bitmaps.n_bitmaps == 0)
        return 0;
    q = t->q;
    err = qimg_format_metadata_add(&q->base, q->bitmaps.directory_offset,
                                   q->bitmaps.directory_bytes);
    for (unsigned i = 0; !err && i < t->list->n; i++) {
        const QimgFormatBitmap *b = &t->list->items[i];

        if (!b->facts.damage)
            err = qimg_format_metadata_add(&q->base, b->table_offset,
                                           (uint64_t)b->n_table_entries * 8);
    }
    return err;
}

/* ---- tables in memory ---- */

/* Creates the tables and chunks of one bitmap, or leaves them out: all bits set. */
static QimgErrno
load_tracked(Qcow2Tracker *t, unsigned place, Qcow2TrackedBitmap *b)
{
    const QimgFormatBitmap *item = &t->list->items[place];
    uint64_t n_bytes = (uint64_t)item->n_table_entries * 16;
    QimgErrno err;

    *b = (Qcow2TrackedBitmap){.place = place,
                              .granularity_bits = item->granularity_bits,
                              .n_entries = item->n_table_entries};
    if (atomic_load(&t->n_bytes) + n_bytes <= t->max_bytes / 2) {
        b->table = calloc(b->n_entries, sizeof *b->table);
        b->chunks = (uint64_t * _Atomic *)calloc(b->n_entries, sizeof *b->chunks);
    }
    if (!b->table || !b->chunks) {
        free(b->table);
        free((void *)b->chunks);
        b->table = NULL;
        b->chunks = NULL;
        atomic_init(&b->is_all, true);
        return 0;
    }
    atomic_fetch_add(&t->n_bytes, n_bytes);
    err = qimg_format_read_words(&t->q->base, QIMG_IO_BITMAP, item->table_offset,
                                 b->table, b->n_entries);
    for (uint64_t e = 0; !err && e < b->n_entries; e++)
        if (b->table[e] == 1)
            atomic_init(&b->chunks[e], QCOW2_TRACK_ONES);
    return err;
}

QimgErrno
qcow2_tracker_load(Qcow2Tracker *t)
{
    QimgErrno err = 0;

    if (atomic_load(&t->is_loaded))
        return 0;
    t->tracked = g_try_new0(Qcow2TrackedBitmap, t->list->n);
    if (!t->tracked)
        return -ENOMEM;
    for (unsigned i = 0; !err && i < t->list->n; i++) {
        const QimgBitmap *facts = &t->list->items[i].facts;

        if (facts->is_enabled && !facts->damage && !facts->is_in_use)
            err = load_tracked(t, i, &t->tracked[t->n_tracked++]);
    }
    if (err)
        qcow2_tracker_forget(t);
    else
        atomic_store_explicit(&t->is_loaded, true, memory_order_release);
    return err;
}

QimgErrno
qcow2_tracker_reload(Qcow2 *q)
{
    QimgBitmaps *list = NULL;
    uint8_t *directory = NULL;
    QimgErrno err;

    if (!q->tracker)
        return q->bitmaps.n_bitmaps == 0 || qcow2_tracker_open(q, DEFAULT_MAX_BYTES, NULL)
                   ? 0
                   : -EIO;
    err = qcow2_read_bitmap_directory(q, &list, &directory);
    if (err)
        return err;
    qcow2_tracker_forget(q->tracker);
    qimg_bitmaps_unref(q->tracker->list);
    g_free(q->tracker->directory);
    q->tracker->list = list;
    q->tracker->directory = directory;
    return 0;
}

QimgErrno
qcow2_tracker_adopt(Qcow2Tracker *t, QimgBitmaps *list, uint8_t *directory)
{
    /* All of them were valid and stored before: this session uses those in use. */
    for (unsigned i = 0; i < list->n; i++) {
        list->items[i].facts.is_in_use = FALSE;
        list->items[i].flags &= ~QCOW2_BITMAP_IN_USE;
    }
    qcow2_tracker_forget(t);
    qimg_bitmaps_unref(t->list);
    g_free(t->directory);
    t->list = list;
    t->directory = directory;
    return qcow2_tracker_load(t);
}

/* ---- setting bits ---- */

/* Returns the bits of entry @e, and creates missing ones; NULL: no room. */
static uint64_t *
ensure_chunk(Qcow2Tracker *t, Qcow2TrackedBitmap *b, uint64_t e, bool may_exceed)
{
    uint64_t cluster_bytes = t->q->geometry.cluster_bytes;
    /* Acquire pairs with the release below. */
    uint64_t *chunk = atomic_load_explicit(&b->chunks[e], memory_order_acquire);
    uint64_t *mine;

    if (chunk)
        return chunk;
    if (!may_exceed &&
        atomic_load_explicit(&t->n_bytes, memory_order_relaxed) + cluster_bytes >
            t->max_bytes)
        return NULL;
    mine = calloc(1, cluster_bytes);
    if (!mine)
        return NULL;
    if (atomic_compare_exchange_strong_explicit(
            &b->chunks[e], &chunk, mine, memory_order_acq_rel, memory_order_acquire)) {
        atomic_fetch_add_explicit(&t->n_bytes, cluster_bytes, memory_order_relaxed);
        return mine;
    }
    free(mine);
    return chunk;
}

/* Sets bits [@first, @end) of a chunk. The words are in file order: bit n of the bitmap
 * is bit n % 64 of a little-endian word. */
static void
set_in_chunk(uint64_t *chunk, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t n = qimg_min_u64(end - first, 64 - first % 64);
        uint64_t mask = (n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1) << first % 64;
        _Atomic uint64_t *word = (_Atomic uint64_t *)&chunk[first / 64];

        /* Relaxed: the store reads it after the gate was closed. */
        if ((atomic_load_explicit(word, memory_order_relaxed) & mask) != mask)
            atomic_fetch_or_explicit(word, mask, memory_order_relaxed);
        first += n;
    }
}

static bool
set_bits(Qcow2Tracker *t, Qcow2TrackedBitmap *b, uint64_t first, uint64_t end,
         bool may_exceed)
{
    uint64_t n_chunk_bits = t->q->geometry.cluster_bytes * 8;

    if (atomic_load_explicit(&b->is_all, memory_order_relaxed))
        return true;
    while (first < end) {
        uint64_t e = first / n_chunk_bits;
        uint64_t chunk_end = qimg_min_u64(end, (e + 1) * n_chunk_bits);
        uint64_t *chunk;

        if (e >= b->n_entries) /* behind the disk's end */
            return true;
        chunk = ensure_chunk(t, b, e, may_exceed);
        if (!chunk && !may_exceed)
            return false;
        if (!chunk) { /* no memory: extra bits are always safe */
            atomic_store_explicit(&b->is_all, true, memory_order_relaxed);
            return true;
        }
        if (chunk != QCOW2_TRACK_ONES)
            set_in_chunk(chunk, first - e * n_chunk_bits, chunk_end - e * n_chunk_bits);
        first = chunk_end;
    }
    return true;
}

bool
qcow2_tracker_set(Qcow2Tracker *t, uint64_t guest_offset, uint64_t length_bytes,
                  bool may_exceed)
{
    for (unsigned i = 0; i < t->n_tracked; i++) {
        Qcow2TrackedBitmap *b = &t->tracked[i];
        uint64_t last = (guest_offset + (length_bytes - 1)) >> b->granularity_bits;

        if (!set_bits(t, b, guest_offset >> b->granularity_bits, last + 1, may_exceed))
            return false;
    }
    return true;
}
