/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Merging the bits of a bitmap into another: in new clusters of bits, and whole entries
 * of the table at once where all bits are set. */
#include "format/qcow2/bitmap/merge.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "format/driver.h"
#include "format/qcow2/bitmap/bits.h"
#include "format/qcow2/refcount/alloc.h"

static QimgErrno
read_bits(BitmapChange *c, uint64_t word, uint8_t *bytes)
{
    uint64_t host_offset = word & QCOW2_BITMAP_OFFSET_MASK;

    if (host_offset)
        return qimg_storage_read(c->q->base.file, QIMG_IO_BITMAP, qimg_host(host_offset),
                                 bytes, c->q->geometry.cluster_bytes);
    memset(bytes, word & 1 ? 0xff : 0, c->q->geometry.cluster_bytes);
    return 0;
}

/* The cluster of bits of the destination that is being changed. */
typedef struct {
    BitmapChange *c;
    BitmapEdit *to;
    uint64_t index; /* UINT64_MAX: none */
    uint8_t *bytes;
} Target;

static QimgErrno
finish_target(Target *t)
{
    uint64_t cluster_bytes = t->c->q->geometry.cluster_bytes;
    QimgClusters run;
    QimgErrno err;

    if (t->index == UINT64_MAX)
        return 0;
    {
        QIMG_LOCK_SCOPE(qcow2_alloc_lock(t->c->q));

        err = qcow2_alloc(t->c->q, 1, &run);
    }
    if (err)
        return err;
    qimg_clusters_append(t->c->made, run);
    bitmap_change_add_gone_bits(t->c, t->to->words[t->index]);
    t->to->words[t->index] = run.first_cluster << t->c->q->geometry.cluster_bits;
    t->index = UINT64_MAX;
    return qimg_storage_write(
        t->c->q->base.file, QIMG_IO_BITMAP,
        qimg_host(run.first_cluster << t->c->q->geometry.cluster_bits), t->bytes,
        cluster_bytes);
}

/* Makes entry @index of the destination the one whose bits are in memory. */
static QimgErrno
turn_target(Target *t, uint64_t index)
{
    QimgErrno err = 0;

    if (t->index == index)
        return 0;
    err = finish_target(t);
    if (!err)
        err = read_bits(t->c, t->to->words[index], t->bytes);
    if (!err)
        t->index = index;
    return err;
}

/* Makes entry @index of the destination all ones, without a cluster of bits. */
static void
fill_merged(Target *t, uint64_t index)
{
    if (t->index == index)
        t->index = UINT64_MAX;
    bitmap_change_add_gone_bits(t->c, t->to->words[index]);
    t->to->words[index] = 1;
}

/* Sets the bits of the destination that guest bytes [@start, @end) touch. */
static QimgErrno
set_target(Target *t, uint64_t start, uint64_t end)
{
    uint64_t n_chunk_bits = t->c->q->geometry.cluster_bytes * 8;
    uint64_t at = start >> t->to->granularity_bits;
    uint64_t end_bit = ((end - 1) >> t->to->granularity_bits) + 1;
    QimgErrno err = 0;

    while (!err && at < end_bit) {
        uint64_t index = at / n_chunk_bits, first = at % n_chunk_bits;
        uint64_t n = qimg_min_u64(end_bit - at, n_chunk_bits - first);

        if (n == n_chunk_bits) {
            fill_merged(t, index);
        } else if (t->to->words[index] != 1) {
            err = turn_target(t, index);
            if (!err)
                qcow2_bits_set(t->bytes, first, first + n);
        }
        at += n;
    }
    return err;
}

/* Merges entry @index of @from, whose bits are in @bits. */
static QimgErrno
merge_entry(Target *t, const BitmapEdit *from, uint64_t index, const uint8_t *bits)
{
    uint64_t size_bytes = t->c->q->header.size_bytes;
    uint64_t n_chunk_bits = t->c->q->geometry.cluster_bytes * 8;
    uint64_t first = index * n_chunk_bits;
    uint64_t n_bits = ((size_bytes - 1) >> from->granularity_bits) + 1;
    uint64_t end = qimg_min_u64(n_bits - first, n_chunk_bits);
    QimgErrno err = 0;

    for (uint64_t at = 0; !err && at < end;) {
        uint64_t start = qcow2_bits_find_other(bits, at, end, false);

        at = qcow2_bits_find_other(bits, start, end, true);
        if (start < at)
            err = set_target(
                t, (first + start) << from->granularity_bits,
                qimg_min_u64((first + at) << from->granularity_bits, size_bytes));
    }
    return err;
}

QimgErrno
bitmap_edit_merge(BitmapChange *c, BitmapEdit *to, BitmapEdit *from)
{
    uint64_t cluster_bytes = c->q->geometry.cluster_bytes;
    g_autofree uint8_t *target_bytes = g_try_malloc(cluster_bytes);
    g_autofree uint8_t *bits = g_try_malloc(cluster_bytes);
    Target t = {.c = c, .to = to, .index = UINT64_MAX, .bytes = target_bytes};
    QimgErrno err = bits && target_bytes ? bitmap_edit_load_words(c, to) : -ENOMEM;

    if (!err)
        err = bitmap_edit_load_words(c, from);
    for (uint64_t i = 0; !err && i < from->n_words; i++) {
        if (from->words[i] == 0)
            continue;
        err = qimg_task_step(c->task, i, from->n_words);
        if (!err)
            err = read_bits(c, from->words[i], bits);
        if (!err)
            err = merge_entry(&t, from, i, bits);
    }
    to->is_changed = true;
    return err ? err : finish_target(&t);
}

QimgErrno
bitmap_edit_merge_other(BitmapChange *c, BitmapEdit *to, const QimgFormatBitmapAction *a)
{
    g_autofree uint8_t *target_bytes = g_try_malloc(c->q->geometry.cluster_bytes);
    Target t = {.c = c, .to = to, .index = UINT64_MAX, .bytes = target_bytes};
    QimgErrno err = target_bytes ? bitmap_edit_load_words(c, to) : -ENOMEM;
    uint64_t n_bytes = 0;

    for (uint64_t at = 0; !err && at < c->q->header.size_bytes; at += n_bytes) {
        bool is_set = false;

        err = qimg_task_step(c->task, at, c->q->header.size_bytes);
        if (!err)
            err = a->source_layer->driver->map_bitmap(a->source_layer, a->source_cursor,
                                                      at, &is_set, &n_bytes);
        if (!err && is_set)
            err = set_target(&t, at, at + n_bytes);
    }
    to->is_changed = true;
    return err ? err : finish_target(&t);
}
