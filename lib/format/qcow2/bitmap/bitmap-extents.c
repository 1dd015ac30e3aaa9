/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of equal bits. Memory: the cursor, whatever the bitmap's size. */
#include "format/qcow2/bitmap/bitmap-extents.h"

#include <errno.h>
#include <string.h>

#define MAX_WALK_USECS 1000000

uint64_t
qcow2_bits_find_other(const uint8_t *bytes, uint64_t first, uint64_t end, bool value)
{
    uint8_t same = value ? 0xff : 0;
    uint64_t same_word = value ? UINT64_MAX : 0;
    uint64_t n = first;

    while (n < end) {
        if (n % 8 == 0) {
            uint64_t word;

            while (end - n >= 64) {
                memcpy(&word, bytes + n / 8, sizeof word); /* in any byte order */
                if (word != same_word)
                    break;
                n += 64;
            }
            while (end - n >= 8 && bytes[n / 8] == same)
                n += 8;
            if (n == end)
                break;
        }
        if ((bytes[n / 8] >> n % 8 & 1) != value)
            return n;
        n++;
    }
    return end;
}

/* Gives the table's word for entry @index. */
static QimgErrno
get_word(Qcow2 *q, QimgBitmapCursor *c, uint64_t index, uint64_t *word_out)
{
    const QimgFormatBitmap *b = &c->list->items[c->place];

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

/* Makes the cursor hold the bits of byte @byte, whose cluster lies at @host_offset. */
static QimgErrno
load_bits(Qcow2 *q, QimgBitmapCursor *c, uint64_t byte, uint64_t host_offset)
{
    uint64_t cluster_bytes = q->geometry.cluster_bytes;
    uint64_t window_bytes = qimg_min_u64(cluster_bytes, QIMG_BITMAP_WINDOW_BYTES);
    uint64_t first = qimg_align_down(byte, window_bytes);
    QimgErrno err;

    if (c->n_bytes > 0 && c->first_byte == first)
        return 0;
    c->n_bytes = 0;
    if (qimg_format_is_beyond_end(&q->base, host_offset + cluster_bytes - 1))
        return -EIO;
    err = qimg_storage_read(q->base.file, QIMG_IO_BITMAP,
                            qimg_host(host_offset + first % cluster_bytes), c->bytes,
                            window_bytes);
    if (err)
        return err;
    c->first_byte = first;
    c->n_bytes = window_bytes;
    return 0;
}

/* The value of bit @n, and in *@end_out how far it is known to hold, at most @n_bits. */
static QimgErrno
look(Qcow2 *q, QimgBitmapCursor *c, uint64_t n, uint64_t n_bits, bool *value_out,
     uint64_t *end_out)
{
    uint64_t bits_per_entry = q->geometry.cluster_bytes * 8;
    uint64_t word, host_offset = 0, first, end;
    QimgErrno err = get_word(q, c, n / bits_per_entry, &word);

    if (!err &&
        qcow2_bitmap_table_entry_decode(word, q->geometry.cluster_bytes, &host_offset)
            .rule)
        err = -EIO;
    if (err)
        return err;
    if (host_offset == 0) {
        *value_out = word & 1;
        *end_out = qimg_min_u64(n_bits, (n / bits_per_entry + 1) * bits_per_entry);
        return 0;
    }
    err = load_bits(q, c, n / 8, host_offset);
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
qcow2_map_bitmap(QimgFormat *format, QimgBitmapCursor *cursor, uint64_t guest_offset,
                 bool *is_set_out, uint64_t *length_bytes_out)
{
    Qcow2 *q = (Qcow2 *)format;
    const QimgFormatBitmap *b = &cursor->list->items[cursor->place];
    gint64 late_usecs = g_get_monotonic_time() + MAX_WALK_USECS;
    unsigned shift = b->granularity_bits;
    uint64_t size_bytes = b->facts.size_bytes;
    uint64_t n_bits = size_bytes > 0 ? ((size_bytes - 1) >> shift) + 1 : 0;
    uint64_t n = guest_offset >> shift, end;
    QimgErrno err;
    bool is_set;

    if (b->facts.damage || b->facts.is_in_use || b->facts.is_stale ||
        guest_offset >= size_bytes)
        return -EINVAL;
    err = look(q, cursor, n, n_bits, &is_set, &end);
    if (err)
        return err;
    while (end < n_bits && g_get_monotonic_time() < late_usecs) {
        uint64_t next_end;
        bool next_is_set;

        /* A failure is met again by the next call. */
        if (look(q, cursor, end, n_bits, &next_is_set, &next_end) ||
            next_is_set != is_set)
            break;
        end = next_end;
    }
    *is_set_out = is_set;
    *length_bytes_out = (end == n_bits ? size_bytes : end << shift) - guest_offset;
    return 0;
}
