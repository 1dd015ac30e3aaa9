/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of equal bits. Memory: the cursor, for any size of the bitmap. */
#include "format/qcow2/bitmap/bitmap-extents.h"

#include <errno.h>

#include "format/qcow2/bitmap/bits.h"
#include "format/qcow2/bitmap/directory.h"
#include "format/qcow2/bitmap/tracker.h"

#define MAX_WALK_USECS 1000000

/* The bitmap as maintained by this process; NULL: it is as in the file. Inside the
 * gate. */
static Qcow2TrackedBitmap *
find_tracked(const Qcow2 *q, unsigned place)
{
    Qcow2Tracker *t = q->tracker;

    /* Acquire pairs with the release of qcow2_tracker_load. */
    if (!t || !atomic_load_explicit(&t->is_loaded, memory_order_acquire))
        return NULL;
    for (unsigned i = 0; i < t->n_tracked; i++)
        if (t->tracked[i].place == place)
            return &t->tracked[i];
    return NULL;
}

/* Returns the table's word for entry @index. */
static QimgErrno
get_word(Qcow2 *q, QimgBitmapCursor *c, uint64_t index, uint64_t *word_out)
{
    const QimgFormatBitmap *b = &c->list->items[c->place];
    const Qcow2TrackedBitmap *tracked = find_tracked(q, c->place);

    if (tracked) {
        bool is_all = atomic_load_explicit(&tracked->is_all, memory_order_relaxed);

        *word_out = is_all ? 1 : tracked->table[index] & ~QCOW2_TRACK_OWNED;
        return 0;
    }

    if (c->n_words == 0 || index < c->first_word || index >= c->first_word + c->n_words) {
        uint64_t first = index / QIMG_BITMAP_WINDOW_WORDS * QIMG_BITMAP_WINDOW_WORDS;
        unsigned n =
            (unsigned)qimg_min_u64(b->n_table_entries - first, QIMG_BITMAP_WINDOW_WORDS);
        QimgErrno err;

        c->n_words = 0;
        err = qimg_format_read_words(&q->base, QIMG_IO_BITMAP,
                                     b->table_offset + first * 8, c->words, n);
        if (err)
            return err;
        c->first_word = first;
        c->n_words = n;
    }
    *word_out = c->words[index - c->first_word];
    return 0;
}

/* Adds the bits that were set in memory since the last store. */
static void
add_live_bits(const uint64_t *chunk, uint64_t first_byte, uint64_t n_bytes,
              uint8_t *bytes)
{
    for (uint64_t i = 0; chunk && i < n_bytes; i += 8) {
        uint64_t word = atomic_load_explicit(
            (const _Atomic uint64_t *)&chunk[(first_byte + i) / 8], memory_order_relaxed);

        for (unsigned b = 0; word != 0; b++, word >>= 8)
            bytes[i + b] |= (uint8_t)word;
    }
}

/* Loads the bits of byte @byte, whose cluster lies at @host_offset, into the cursor. */
static QimgErrno
load_bits(Qcow2 *q, QimgBitmapCursor *c, uint64_t byte, uint64_t host_offset,
          const uint64_t *chunk)
{
    uint64_t cluster_bytes = q->geometry.cluster_bytes;
    uint64_t window_bytes = qimg_min_u64(cluster_bytes, QIMG_BITMAP_WINDOW_BYTES);
    uint64_t first = qimg_align_down(byte, window_bytes);
    QimgErrno err;

    if (c->n_bytes > 0 && c->first_byte == first)
        return 0;
    c->n_bytes = 0;
    if (host_offset == 0) {
        memset(c->bytes, 0, window_bytes);
    } else {
        if (qimg_format_is_beyond_end(&q->base, host_offset + cluster_bytes - 1))
            return -EIO;
        err = qimg_storage_read(q->base.file, QIMG_IO_BITMAP,
                                qimg_host(host_offset + first % cluster_bytes), c->bytes,
                                window_bytes);
        if (err)
            return err;
    }
    add_live_bits(chunk, first % cluster_bytes, window_bytes, c->bytes);
    c->first_byte = first;
    c->n_bytes = window_bytes;
    return 0;
}

/* The value of bit @n, and in *@end_out the end of the run known to have it, at most
 * @n_bits. */
static QimgErrno
look(Qcow2 *q, QimgBitmapCursor *c, uint64_t n, uint64_t n_bits, bool *value_out,
     uint64_t *end_out)
{
    uint64_t bits_per_entry = q->geometry.cluster_bytes * 8;
    uint64_t word, host_offset = 0, first, end;
    Qcow2TrackedBitmap *tracked;
    const uint64_t *chunk = NULL;
    QimgErrno err = get_word(q, c, n / bits_per_entry, &word);

    if (!err &&
        qcow2_bitmap_table_entry_decode(word, q->geometry.cluster_bytes, &host_offset)
            .rule)
        err = -EIO;
    if (err)
        return err;
    tracked = find_tracked(q, c->place);
    if (tracked && tracked->chunks)
        /* Acquire pairs with the release by which it was published. */
        chunk = atomic_load_explicit(&tracked->chunks[n / bits_per_entry],
                                     memory_order_acquire);
    if (chunk == QCOW2_TRACK_ONES)
        chunk = NULL;
    if (host_offset == 0 && (!chunk || word == 1)) {
        *value_out = word & 1;
        *end_out = qimg_min_u64(n_bits, (n / bits_per_entry + 1) * bits_per_entry);
        return 0;
    }
    err = load_bits(q, c, n / 8, host_offset, chunk);
    if (err)
        return err;
    first = c->first_byte * 8;
    end = qimg_min_u64(n_bits, first + c->n_bytes * 8);
    *value_out = c->bytes[n / 8 - c->first_byte] >> n % 8 & 1;
    *end_out =
        first + qcow2_bits_find_other(c->bytes, n - first, end - first, *value_out);
    return 0;
}

QimgErrno
qcow2_load_bitmaps(QimgFormat *format, QimgBitmaps **list_out)
{
    Qcow2 *q = (Qcow2 *)format;
    const Qcow2Tracker *t = q->tracker;
    g_autofree uint8_t *bytes = NULL;
    QimgErrno err = qcow2_read_bitmap_directory(q, list_out, &bytes);

    /* Bitmaps in use by this process have their bits here. */
    for (unsigned i = 0; !err && t && i < (*list_out)->n; i++) {
        (*list_out)->items[i].facts.is_in_use = t->list->items[i].facts.is_in_use;
        (*list_out)->items[i].facts.damage = t->list->items[i].facts.damage;
    }
    return err;
}

/* Whether the cursor's bitmap is still the one in its list: a change of the disk's size
 * moves the tables. */
static bool
is_same_as_live(const Qcow2 *q, const QimgBitmapCursor *c)
{
    const Qcow2Tracker *t = q->tracker;
    const QimgFormatBitmap *b = &c->list->items[c->place];

    return !t || (c->place < t->list->n &&
                  t->list->items[c->place].table_offset == b->table_offset &&
                  t->list->items[c->place].n_table_entries == b->n_table_entries);
}

QimgErrno
qcow2_map_bitmap(QimgFormat *format, QimgBitmapCursor *cursor, uint64_t guest_offset,
                 bool *is_set_out, uint64_t *length_bytes_out)
{
    Qcow2 *q = (Qcow2 *)format;
    const QimgFormatBitmap *b;
    gint64 late_usecs = g_get_monotonic_time() + MAX_WALK_USECS;
    unsigned shift;
    uint64_t size_bytes, n_bits, n, end;
    QimgErrno err;
    bool is_set;

    if (!is_same_as_live(q, cursor))
        return -EINVAL;
    b = &cursor->list->items[cursor->place];
    shift = b->granularity_bits;
    size_bytes = b->facts.size_bytes;
    n_bits = size_bytes > 0 ? ((size_bytes - 1) >> shift) + 1 : 0;
    n = guest_offset >> shift;

    if (b->facts.damage || b->facts.is_in_use || b->facts.is_stale ||
        guest_offset >= size_bytes)
        return -EINVAL;
    err = look(q, cursor, n, n_bits, &is_set, &end);
    if (err)
        return err;
    while (end < n_bits && g_get_monotonic_time() < late_usecs) {
        uint64_t next_end;
        bool next_is_set;

        /* The next call meets a failure again. */
        if (look(q, cursor, end, n_bits, &next_is_set, &next_end) ||
            next_is_set != is_set)
            break;
        end = next_end;
    }
    *is_set_out = is_set;
    *length_bytes_out = (end == n_bits ? size_bytes : end << shift) - guest_offset;
    return 0;
}
