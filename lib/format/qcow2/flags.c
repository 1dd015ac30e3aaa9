/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The COPIED flags of the active tables: what they must be, and correcting them; and the
 * few entries that a repair replaces. Each entry is right by itself, whatever else of a
 * repair got to the disk. */
#include <errno.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/check.h"

#define READ_BYTES (64 * QIMG_KIB)

/* ---- what is right ---- */

static uint64_t
with_right_flag(const Qcow2 *q, const Qcow2Counts *counts, uint64_t word)
{
    uint64_t host_offset = word & QCOW2_OFFSET_MASK;
    uint64_t cluster = host_offset >> q->geometry.cluster_bits;

    if (host_offset == 0 || !qimg_is_aligned(host_offset, q->geometry.cluster_bytes) ||
        cluster >= counts->n_clusters)
        return word;
    return qcow2_counts_get(counts, cluster) == 1 ? word | QCOW2_ENTRY_COPIED
                                                  : word & ~QCOW2_ENTRY_COPIED;
}

uint64_t
qcow2_right_l1_entry(const Qcow2 *q, const Qcow2Counts *counts, uint64_t entry)
{
    return with_right_flag(q, counts, entry);
}

uint64_t
qcow2_right_l2_word(const Qcow2 *q, const Qcow2Counts *counts, uint64_t word)
{
    if (word & QCOW2_L2_COMPRESSED)
        return word & ~QCOW2_ENTRY_COPIED;
    /* In a data file each guest cluster has a place of its own; at offset 0 the flag
     * alone tells whether it is used. */
    if (q->geometry.has_data_file)
        return (word & QCOW2_OFFSET_MASK) ? word | QCOW2_ENTRY_COPIED : word;
    return with_right_flag(q, counts, word);
}

/* ---- correcting L2 tables ---- */

/* An entry's first word as it shall be; @is_active: flags count. */
static uint64_t
right_word(const Qcow2Repair *r, uint64_t word, uint64_t bitmap, bool is_active)
{
    const Qcow2Geometry *g = &r->q->geometry;

    if (r->mends_entries && qcow2_is_unaligned_zero(g, word, bitmap))
        return g->extended_l2 ? 0 : QCOW2_L2_ZERO;
    return is_active ? qcow2_right_l2_word(r->q, &r->counts, word) : word;
}

/* Corrects a slice: all from its first wrong word to its last is written at once. */
static QimgErrno
correct_slice(Qcow2Repair *r, uint64_t l2_table_offset, uint64_t first_entry,
              bool is_active)
{
    Qcow2 *q = r->q;
    unsigned step = q->geometry.l2_entry_words;
    uint64_t words[TABLE_SLICE_WORDS];
    uint64_t first = UINT64_MAX, end = 0;
    Qcow2L2Slice slice;
    QimgErrno err = qcow2_l2_pin(q, l2_table_offset, first_entry, &slice);

    if (err)
        return err;
    for (unsigned i = 0; i < q->slice_words; i++)
        words[i] = table_slice_get(&slice.slice, i);
    for (unsigned i = 0; i < q->slice_words; i += step) {
        uint64_t right = right_word(r, words[i], words[i + step - 1], is_active);

        if (words[i] == right)
            continue;
        words[i] = right;
        first = qimg_min_u64(first, i);
        end = i + step;
        r->n_flags++;
    }
    if (end > 0)
        err = qcow2_l2_store(q, &slice, first, words + first, end - first, false);
    table_slice_unpin(&slice.slice);
    return err;
}

/* Corrects an L2 table. It is read past the cache, which is left to the readers; only
 * slices in which something is wrong are loaded. */
static QimgErrno
correct_l2_table(Qcow2Repair *r, uint64_t l2_table_offset, bool is_active,
                 uint64_t *buffer)
{
    Qcow2 *q = r->q;
    unsigned step = q->geometry.l2_entry_words;
    uint64_t n_bytes = qimg_min_u64(q->geometry.cluster_bytes, READ_BYTES);

    for (uint64_t done = 0; done < q->geometry.cluster_bytes; done += n_bytes) {
        QimgErrno err = qimg_storage_read(
            q->base.file, QIMG_IO_L2, qimg_host(l2_table_offset + done), buffer, n_bytes);
        uint64_t n_words = n_bytes / sizeof *buffer;
        uint64_t i = 0;

        if (err) /* a check that found it unreadable says so again */
            return r->counts.n_errors > 0 && err != -ENOMEM ? 0 : err;
        qimg_be64_array_to_host(buffer, n_words);
        while (i < n_words) {
            if (right_word(r, buffer[i], buffer[i + step - 1], is_active) == buffer[i]) {
                i += step;
                continue;
            }
            err = correct_slice(r, l2_table_offset, (done / sizeof *buffer + i) / step,
                                is_active);
            if (err)
                return err;
            i = qimg_align_down(i, q->slice_words) + q->slice_words;
        }
    }
    return 0;
}

/* Entries of snapshots' tables, which the active disk need not have. */
static QimgErrno
correct_all_l2_tables(Qcow2Repair *r, uint64_t *buffer)
{
    QimgErrno err = 0;

    for (uint64_t c = 0; !err && c < r->counts.n_clusters; c++)
        if (qcow2_counts_get_use(&r->counts, c) == QCOW2_USE_L2)
            err = correct_l2_table(r, c << r->q->geometry.cluster_bits, false, buffer);
    return err;
}

/* ---- the active L1 table ---- */

static QimgErrno
correct_l1_entry(Qcow2Repair *r, uint64_t l1_index, uint64_t entry, uint64_t *buffer)
{
    const Qcow2Geometry *g = &r->q->geometry;
    uint64_t l2_table_offset = entry & QCOW2_OFFSET_MASK;
    uint64_t right = qcow2_right_l1_entry(r->q, &r->counts, entry);

    if (right != entry) {
        QimgErrno err = qcow2_l1_store(r->q, l1_index, right);

        if (err)
            return err;
        r->n_flags++;
    }
    /* What lies in the cluster of another table must not be changed like this one. */
    if (!qimg_is_aligned(l2_table_offset, g->cluster_bytes) ||
        qcow2_counts_get_use(&r->counts, l2_table_offset >> g->cluster_bits) !=
            QCOW2_USE_L2)
        return 0;
    return correct_l2_table(r, l2_table_offset, true, buffer);
}

QimgErrno
qcow2_repair_entries(Qcow2Repair *r)
{
    Qcow2 *q = r->q;
    g_autofree uint64_t *l1 = g_try_malloc(READ_BYTES);
    g_autofree uint64_t *buffer = g_try_malloc(READ_BYTES);
    uint64_t n_entries = q->base.active.n_l1_entries_in_file;
    uint64_t n;

    if (!l1 || !buffer)
        return -ENOMEM;
    for (uint64_t i = 0; i < n_entries; i += n) {
        QimgErrno err;

        n = qimg_min_u64(n_entries - i, READ_BYTES / sizeof *l1);
        err = qimg_storage_read(q->base.file, QIMG_IO_L1,
                                qimg_host(q->base.active.l1_table_offset.v + i * 8), l1,
                                n * sizeof *l1);
        if (err)
            return err;
        qimg_be64_array_to_host(l1, n);
        for (uint64_t j = 0; j < n; j++) {
            if ((l1[j] & QCOW2_OFFSET_MASK) == 0)
                continue;
            err = correct_l1_entry(r, i + j, l1[j], buffer);
            if (err)
                return err;
        }
    }
    if (r->mends_entries && r->counts.n_unaligned_zeros > 0)
        return correct_all_l2_tables(r, buffer);
    return 0;
}
