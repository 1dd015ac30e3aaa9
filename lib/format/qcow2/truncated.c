/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See truncated.h: the targets of the L1 table, the L1 tables of snapshots, and the last
 * cluster that the refcounts count, against the end of the file. */
#include "format/qcow2/truncated.h"

#include "codec/qcow2-refcounts.h"
#include "codec/qcow2-tables.h"
#include "format/truncated.h"

/* The bits of an entry of the refcount table that are the offset. */
#define REFTABLE_OFFSET_MASK (~UINT64_C(0x1ff))

/* Entries of the refcount table that are read at once. */
#define PIECE_WORDS 8192u

static uint64_t
end_of(uint64_t host_offset, uint64_t n_bytes)
{
    uint64_t end_bytes;

    return qimg_add_u64(host_offset, n_bytes, &end_bytes) ? end_bytes : 0;
}

/* Returns the offset of the last refcount block, and its index; 0: none could be read. */
static uint64_t
find_last_block(Qcow2 *q, uint64_t *index_out)
{
    uint64_t n_entries =
        (uint64_t)q->header.n_refcount_table_clusters * q->geometry.cluster_bytes / 8;
    size_t n_words = (size_t)qimg_min_u64(n_entries, PIECE_WORDS);
    g_autofree uint64_t *words = g_new(uint64_t, n_words);

    while (n_entries > 0) {
        n_words = (size_t)qimg_min_u64(n_entries, PIECE_WORDS);
        n_entries -= n_words;
        if (qimg_format_read_words(&q->base, QIMG_IO_REFCOUNT_TABLE,
                                   q->header.refcount_table_offset + n_entries * 8, words,
                                   n_words) != 0)
            return 0;
        while (n_words-- > 0)
            if ((words[n_words] & REFTABLE_OFFSET_MASK) != 0) {
                *index_out = n_entries + n_words;
                return words[n_words] & REFTABLE_OFFSET_MASK;
            }
    }
    return 0;
}

/* Returns the start of the last cluster that the block at @block_offset counts; 0: none,
 * or it cannot be read. */
static uint64_t
find_last_counted(Qcow2 *q, uint64_t block_offset, uint64_t block_index)
{
    size_t n_bytes = (size_t)q->geometry.cluster_bytes;
    uint32_t order = q->header.refcount_order;
    uint64_t n =
        qcow2_refcounts_per_block(q->geometry.cluster_bits, q->header.refcount_order);
    g_autofree uint8_t *block = g_try_malloc(n_bytes);
    uint64_t cluster, host_offset;

    if (!block || qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT,
                                    qimg_host(block_offset), block, n_bytes) != 0)
        return 0;
    while (n_bytes > 0 && block[n_bytes - 1] == 0)
        n_bytes--;
    n = qimg_min_u64(n, qimg_div_round_up((uint64_t)n_bytes << 3, UINT64_C(1) << order));
    while (n > 0 && qcow2_refcount_decode(block, order, n - 1) == 0)
        n--;
    if (n == 0 ||
        !qimg_mul_u64(block_index,
                      qcow2_refcounts_per_block(q->geometry.cluster_bits, order),
                      &cluster) ||
        !qimg_mul_u64(cluster + n - 1, q->geometry.cluster_bytes, &host_offset))
        return 0;
    return host_offset;
}

/* Compares the refcounts with the file's end. A counted cluster can be a leak: a program
 * that was killed has counted it and not yet written it. */
static void
look_at_refcounts(Qcow2 *q)
{
    uint64_t cluster_bytes = q->geometry.cluster_bytes;
    uint64_t index = 0, block, counted, size_bytes = 0;

    if (qimg_format_warn_if_truncated(
            &q->base, end_of(q->header.refcount_table_offset,
                             q->header.n_refcount_table_clusters * cluster_bytes)))
        return;
    block = find_last_block(q, &index);
    if (block == 0 ||
        qimg_format_warn_if_truncated(&q->base, end_of(block, cluster_bytes)))
        return;
    counted = find_last_counted(q, block, index);
    if (counted == 0 || !qimg_format_is_beyond_end(&q->base, counted) ||
        qimg_storage_get_size(q->base.file, &size_bytes) != 0)
        return;
    qimg_format_warn(&q->base,
                     "ends too early: the file has %" PRIu64
                     " bytes, and the cluster at %" PRIu64
                     " is counted as in use; it was truncated, or a program was killed "
                     "while it wrote to it (qimg map lists missing parts, qimg check "
                     "leaks)",
                     size_bytes, counted);
}

void
qcow2_warn_if_truncated(Qcow2 *q)
{
    uint64_t needed_bytes, last_table;

    needed_bytes = qimg_find_l2_end(&q->base, &q->base.active, QCOW2_OFFSET_MASK,
                                    q->geometry.cluster_bytes, &last_table);
    for (unsigned i = 0; i < q->base.snapshots->n; i++) {
        const QimgView *view = &q->base.snapshots->items[i].view;

        needed_bytes =
            qimg_max_u64(needed_bytes, end_of(view->l1_table_offset.v,
                                              (uint64_t)view->n_l1_entries * 8));
    }
    if (!qimg_format_warn_if_truncated(&q->base, needed_bytes))
        look_at_refcounts(q);
}
