/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/qcow2/bitmap/bitmap-edit.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "format/driver.h"

void
bitmap_edit_clear(gpointer data)
{
    BitmapEdit *e = data;

    g_free(e->name);
    g_free(e->words);
}

void
bitmap_change_add_gone(BitmapChange *c, uint64_t host_offset, uint64_t n_bytes)
{
    unsigned bits = c->q->geometry.cluster_bits;

    qimg_clusters_append(
        c->gone,
        (QimgClusters){host_offset >> bits,
                       qimg_div_round_up(n_bytes, c->q->geometry.cluster_bytes)});
}

void
bitmap_change_add_gone_bits(BitmapChange *c, uint64_t word)
{
    uint64_t cluster_bytes = c->q->geometry.cluster_bytes, host_offset = 0;

    if (!qcow2_bitmap_table_entry_decode(word, cluster_bytes, &host_offset).rule &&
        host_offset != 0 &&
        !qimg_format_is_beyond_end(&c->q->base, host_offset + cluster_bytes - 1) &&
        !qimg_format_touches_metadata(&c->q->base, host_offset, cluster_bytes))
        bitmap_change_add_gone(c, host_offset, cluster_bytes);
}

QimgErrno
bitmap_edit_load_words(BitmapChange *c, BitmapEdit *e)
{
    QimgErrno err;

    if (e->words)
        return 0;
    e->n_words = e->n_old_entries;
    e->words = g_try_new(uint64_t, e->n_words);
    if (!e->words)
        return -ENOMEM;
    err = qimg_format_read_words(&c->q->base, QIMG_IO_BITMAP, e->old_table_offset,
                                 e->words, e->n_words);
    if (err)
        g_clear_pointer(&e->words, g_free);
    return err;
}

QimgErrno
bitmap_edit_reset_words(BitmapChange *c, BitmapEdit *e, uint64_t word)
{
    uint64_t *words;
    uint64_t n = qcow2_bitmap_entries_for(c->q->header.size_bytes, e->granularity_bits,
                                          c->q->geometry.cluster_bytes);

    words = g_try_new(uint64_t, n);
    if (!words)
        return -ENOMEM;
    for (uint64_t i = 0; i < n; i++)
        words[i] = word;
    for (uint64_t i = 0; e->words && i < e->n_words; i++)
        bitmap_change_add_gone_bits(c, e->words[i]);
    g_free(e->words);
    e->words = words;
    e->n_words = n;
    e->is_changed = true;
    return 0;
}

QimgErrno
bitmap_edit_drop(BitmapChange *c, BitmapEdit *e)
{
    QimgErrno err = 0;

    if (e->damage) /* its own clusters are not known: they are leaked */
        return 0;
    if (e->old_table_offset)
        err = bitmap_edit_load_words(c, e);
    for (uint64_t i = 0; !err && i < e->n_words; i++)
        bitmap_change_add_gone_bits(c, e->words[i]);
    if (!err && e->old_table_offset)
        bitmap_change_add_gone(c, e->old_table_offset, (uint64_t)e->n_old_entries * 8);
    return err;
}
