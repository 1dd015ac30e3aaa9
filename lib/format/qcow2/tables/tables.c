/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of entries of L1 and L2 tables: in the file first, then in the cached slice
 * that readers use (T1). */
#include "format/qcow2/tables/tables.h"

#include <errno.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/scratch.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"

#define COPY_BYTES (64 * QIMG_KIB)

static uint64_t
l1_slice_offset(const Qcow2 *q, uint64_t l1_index)
{
    return q->base.active.l1_table_offset.v +
           qimg_align_down(l1_index, TABLE_SLICE_WORDS) * sizeof(uint64_t);
}

QimgErrno
qcow2_find_l2_table(Qcow2 *q, uint64_t l1_index, uint64_t *l2_table_offset_out,
                    bool *is_private_out)
{
    table_autoslice slice = {0};
    uint64_t entry, offset;
    QimgErrno err;

    if (l1_index >= q->base.active.n_l1_entries_in_file)
        return qcow2_mark_corrupt(q, QIMG_RULE_L1_BEYOND_EOF,
                                  l1_slice_offset(q, l1_index));
    err = qimg_format_pin(&q->base, TABLE_L1, l1_slice_offset(q, l1_index),
                          TABLE_SLICE_WORDS, &slice);
    if (err)
        return err;
    entry = table_slice_get(&slice, l1_index % TABLE_SLICE_WORDS);
    offset = entry & QCOW2_OFFSET_MASK;
    if (entry & QCOW2_L1_RESERVED)
        return qcow2_mark_corrupt(q, QIMG_RULE_L1_RESERVED, offset);
    if (!qimg_is_aligned(offset, q->geometry.cluster_bytes))
        return qcow2_mark_corrupt(q, QIMG_RULE_L2_UNALIGNED, offset);
    if (offset && qimg_format_is_beyond_end(&q->base, offset))
        return qcow2_mark_corrupt(q, QIMG_RULE_L2_BEYOND_EOF, offset);
    *l2_table_offset_out = offset;
    *is_private_out = offset && (entry & QCOW2_ENTRY_COPIED);
    return 0;
}

QimgErrno
qcow2_copy_table(Qcow2 *q, QimgIoPurpose purpose, uint64_t from_offset,
                 uint64_t to_offset, uint64_t n_bytes, uint64_t cleared_bits)
{
    uint64_t *words = qimg_scratch_get(QIMG_SCRATCH_TABLE, COPY_BYTES);
    uint64_t n;

    if (!words)
        return -ENOMEM;
    for (uint64_t done = 0; done < n_bytes; done += n) {
        QimgErrno err;

        n = qimg_min_u64(n_bytes - done, COPY_BYTES);
        err = qimg_format_read_words(&q->base, purpose, from_offset + done, words, n / 8);
        if (err)
            return err;
        for (uint64_t i = 0; i < n / 8; i++)
            words[i] &= ~cleared_bits;
        qimg_format_swap_words(&q->base, words, n / 8);
        err = qimg_storage_write(q->base.file, purpose, qimg_host(to_offset + done),
                                 words, n);
        if (err)
            return err;
    }
    return 0;
}

/* Makes a table for @l1_index in a fresh cluster, which is zeros (W1), from the shared
 * one at @old_offset unless that is 0. Under alloc_lock. */
static QimgErrno
qcow2_make_l2_table(Qcow2 *q, uint64_t l1_index, uint64_t old_offset,
                    uint64_t *new_offset_out)
{
    uint64_t cluster_bytes = q->geometry.cluster_bytes;
    uint64_t new_offset;
    QimgClusters run;
    QimgErrno err = qcow2_alloc(q, 1, &run);

    if (err)
        return err;
    new_offset = run.first_cluster << q->geometry.cluster_bits;
    qcow2_forget_table(q, TABLE_L2, new_offset, cluster_bytes);
    err = qimg_format_metadata_add(&q->base, new_offset, cluster_bytes);
    if (!err && old_offset)
        err = qcow2_copy_table(q, QIMG_IO_L2, old_offset, new_offset, cluster_bytes, 0);
    if (err) {
        qimg_format_metadata_remove(&q->base, new_offset, cluster_bytes);
        qcow2_alloc_undo(q, run);
        return err;
    }
    err = qcow2_l1_store(q, l1_index, new_offset | QCOW2_ENTRY_COPIED,
                         old_offset || qimg_format_is_behind(&q->base));
    if (err) {
        qcow2_free_later(q, run);
        return err;
    }
    if (old_offset)
        qcow2_free_later(q, (QimgClusters){old_offset >> q->geometry.cluster_bits, 1});
    *new_offset_out = new_offset;
    return 0;
}

QimgErrno
qcow2_ensure_l2_table(Qcow2 *q, uint64_t l1_index, uint64_t *l2_table_offset_out)
{
    bool is_private = false;
    QimgErrno err = qcow2_find_l2_table(q, l1_index, l2_table_offset_out, &is_private);

    if (err || is_private)
        return err;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    err = qcow2_find_l2_table(q, l1_index, l2_table_offset_out, &is_private);
    if (err || is_private)
        return err;
    return qcow2_make_l2_table(q, l1_index, *l2_table_offset_out, l2_table_offset_out);
}

QimgErrno
qcow2_l2_pin(Qcow2 *q, uint64_t l2_table_offset, uint64_t l2_index, Qcow2L2Slice *out)
{
    uint64_t word = l2_index * q->geometry.l2_entry_words;

    out->host_offset =
        l2_table_offset + qimg_align_down(word, q->slice_words) * sizeof(uint64_t);
    if (qimg_format_is_beyond_end(&q->base,
                                  out->host_offset)) /* a truncated table (I3) */
        return qcow2_mark_corrupt(q, QIMG_RULE_L2_BEYOND_EOF, out->host_offset);
    return qimg_format_pin_to_change(&q->base, TABLE_L2, out->host_offset, q->slice_words,
                                     &out->slice);
}

QimgErrno
qcow2_l2_store(Qcow2 *q, Qcow2L2Slice *slice, uint64_t word_index, const uint64_t *words,
               uint64_t n_words, Qcow2L2Order order)
{
    QimgTableChange change = {
        .purpose = QIMG_IO_L2,
        .slice_offset = slice->host_offset,
        .slice = &slice->slice,
        .word_index = word_index,
        .words = words,
        .n_words = n_words,
        .entry_words = q->geometry.l2_entry_words,
        .data_first = order.data_first,
    };
    QimgErrno err;

    if (!q->geometry.extended_l2)
        return qimg_format_store_words(&q->base, &change);
    err = qimg_format_write_words(&q->base, &change);
    if (err)
        return err;
    qcow2_l2_set_extended(&slice->slice, word_index, words, n_words,
                          order.is_bitmap_first);
    return 0;
}

QimgErrno
qcow2_l1_store(Qcow2 *q, uint64_t l1_index, uint64_t entry, bool data_first)
{
    table_autoslice slice = {0};
    QimgTableChange change = {
        .purpose = QIMG_IO_L1,
        .slice_offset = l1_slice_offset(q, l1_index),
        .slice = &slice,
        .word_index = l1_index % TABLE_SLICE_WORDS,
        .words = &entry,
        .n_words = 1,
        .entry_words = 1,
        .data_first = data_first,
    };
    QimgErrno err = qimg_format_pin_to_change(&q->base, TABLE_L1, change.slice_offset,
                                              TABLE_SLICE_WORDS, &slice);

    return err ? err : qimg_format_store_words(&q->base, &change);
}

void
qcow2_forget_table(Qcow2 *q, TableKind kind, uint64_t host_offset, uint64_t n_bytes)
{
    uint64_t slice_bytes = kind == TABLE_L1 ? TABLE_SLICE_BYTES
                                            : (uint64_t)q->slice_words * sizeof(uint64_t);

    for (uint64_t at = 0; at < n_bytes; at += slice_bytes)
        table_cache_forget(q->base.tables, kind, q->base.layer_index,
                           qimg_host(host_offset + at));
}
