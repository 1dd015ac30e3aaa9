/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of very many refcounts at once: a block is read and written once, for any
 * number of counted clusters. */
#include "format/qcow2/count/refcount-bulk.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "codec/qcow2-refcounts.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc-state.h"

/* The written part of a block: from the first piece with a change to the last. */
#define PIECE_BYTES 4096u

typedef struct {
    Qcow2 *q;
    const Qcow2Counts *counts;
    int sign;
    uint64_t per_block;
    uint8_t *old; /* a block as in the file */
    uint8_t *new; /* its new content */
} Bulk;

static QimgErrno
bulk_begin(Bulk *b)
{
    b->per_block = qcow2_refcounts_per_block(b->q->geometry.cluster_bits,
                                             b->q->header.refcount_order);
    b->old = g_try_malloc(2 * b->q->geometry.cluster_bytes);
    if (!b->old)
        return -ENOMEM;
    b->new = b->old + b->q->geometry.cluster_bytes;
    return 0;
}

static uint64_t
n_blocks(const Bulk *b)
{
    return qimg_div_round_up(b->counts->n_words, b->per_block);
}

/* Whether block @index has a change. */
static bool
has_counts(const Bulk *b, uint64_t index)
{
    uint64_t end = qimg_min_u64((index + 1) * b->per_block, b->counts->n_words);

    for (uint64_t c = index * b->per_block; c < end; c++)
        if (b->counts->words[c] != 0)
            return true;
    return false;
}

/* Reads block @index. -ERANGE if it is missing. */
static QimgErrno
load_block(Bulk *b, uint64_t index)
{
    Qcow2 *q = b->q;

    if (index >= q->alloc->n_refcount_table_entries ||
        q->alloc->refcount_table[index] == 0)
        return -ERANGE;
    return qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT,
                             qimg_host(q->alloc->refcount_table[index]), b->old,
                             q->geometry.cluster_bytes);
}

/* Computes the new block from the old one. */
static QimgErrno
change_block(Bulk *b, uint64_t index)
{
    uint32_t order = b->q->header.refcount_order;
    uint64_t max = qcow2_refcount_max(order);

    memcpy(b->new, b->old, b->q->geometry.cluster_bytes);
    for (uint64_t i = 0; i < b->per_block; i++) {
        uint64_t n = qcow2_counts_get(b->counts, index * b->per_block + i);
        uint64_t refcount;

        if (n == 0)
            continue;
        refcount = qcow2_refcount_decode(b->old, order, i);
        if (b->sign > 0 ? n > max - refcount : n > refcount)
            return -ERANGE;
        qcow2_refcount_encode(b->new, order, i,
                              b->sign > 0 ? refcount + n : refcount - n);
    }
    return 0;
}

/* Writes the changed part of the new block. */
static QimgErrno
store_block(Bulk *b, uint64_t index)
{
    uint64_t n_bytes = b->q->geometry.cluster_bytes;
    uint64_t piece = qimg_min_u64(PIECE_BYTES, n_bytes);
    uint64_t start = 0, end = n_bytes;

    while (start < end && memcmp(b->old + start, b->new + start, piece) == 0)
        start += piece;
    while (start < end && memcmp(b->old + end - piece, b->new + end - piece, piece) == 0)
        end -= piece;
    if (start == end)
        return 0;
    return qimg_format_write_or_undo(&b->q->base, QIMG_IO_REFCOUNT,
                                     b->q->alloc->refcount_table[index] + start,
                                     b->new + start, b->old + start, end - start);
}

static void
collect_freed(const Bulk *b, uint64_t index, GArray *freed)
{
    uint32_t order = b->q->header.refcount_order;

    for (uint64_t i = 0; i < b->per_block; i++) {
        uint64_t cluster = index * b->per_block + i;

        if (qcow2_counts_get(b->counts, cluster) > 0 &&
            qcow2_refcount_decode(b->new, order, i) == 0)
            qimg_clusters_append(freed, (QimgClusters){cluster, 1});
    }
}

QimgErrno
qcow2_refcount_check_counts(Qcow2 *q, const Qcow2Counts *counts, int sign)
{
    Bulk b = {.q = q, .counts = counts, .sign = sign};
    QimgErrno err = bulk_begin(&b);

    for (uint64_t i = 0; !err && i < n_blocks(&b); i++) {
        if (!has_counts(&b, i))
            continue;
        err = load_block(&b, i);
        if (!err)
            err = change_block(&b, i);
    }
    g_free(b.old);
    return err;
}

QimgErrno
qcow2_refcount_add_counts(Qcow2 *q, const Qcow2Counts *counts, int sign, GArray *freed)
{
    Bulk b = {.q = q, .counts = counts, .sign = sign};
    QimgErrno err = bulk_begin(&b);
    uint64_t i;

    for (i = 0; !err && i < n_blocks(&b); i++) {
        if (!has_counts(&b, i))
            continue;
        err = load_block(&b, i);
        if (!err)
            err = change_block(&b, i);
        if (!err)
            err = store_block(&b, i);
        if (err)
            break;
        if (freed)
            collect_freed(&b, i, freed);
    }
    b.sign = -sign;
    while (err && !freed && b.old && i-- > 0)
        if (has_counts(&b, i) &&
            (load_block(&b, i) || change_block(&b, i) || store_block(&b, i)))
            qcow2_keep_dirty(q);
    g_free(b.old);
    return err;
}

QimgErrno
qcow2_refcount_load_all(Qcow2 *q, Qcow2Counts *out)
{
    Bulk b = {.q = q, .counts = out};
    uint64_t size_bytes = 0;
    QimgErrno err;

    *out = (Qcow2Counts){0};
    err = bulk_begin(&b);
    if (!err)
        err = qimg_storage_get_size(q->base.file, &size_bytes);
    if (err) {
        g_free(b.old);
        return err;
    }
    out->n_clusters = qimg_div_round_up(size_bytes, q->geometry.cluster_bytes);
    out->n_words = qimg_max_u64(out->n_clusters, 1);
    if (out->n_words > QCOW2_MAX_COUNT_BYTES / sizeof *out->words)
        err = -EFBIG;
    else if (!(out->words = g_try_malloc0(out->n_words * sizeof *out->words)))
        err = -ENOMEM;
    for (uint64_t i = 0;
         !err && i < n_blocks(&b) && i < q->alloc->n_refcount_table_entries; i++) {
        if (q->alloc->refcount_table[i] == 0)
            continue;
        err = load_block(&b, i);
        for (uint64_t j = 0; !err && j < b.per_block; j++) {
            uint64_t cluster = i * b.per_block + j;
            uint64_t n = qcow2_refcount_decode(b.old, q->header.refcount_order, j);

            if (cluster < out->n_words)
                out->words[cluster] = (uint32_t)qimg_min_u64(n, QCOW2_MAX_COUNT);
        }
    }
    g_free(b.old);
    return err;
}
