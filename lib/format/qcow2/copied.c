/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The COPIED flags of the active tables: whether the active disk alone refers to a
 * cluster, so that it may be written in place. Spec: qcow2 section 4. */
#include <errno.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/count.h"

#define READ_BYTES (64 * QIMG_KIB)

typedef struct {
    Qcow2 *q;
    const QimgView *view;
    const Qcow2Counts *counts; /* NULL: everything is shared */
    uint64_t n_corrected;
} Flags;

/* The word of an active table that refers to @host_offset, with the right flag. */
static uint64_t
with_right_flag(const Flags *f, uint64_t word, uint64_t host_offset)
{
    uint64_t cluster = host_offset >> f->q->geometry.cluster_bits;

    return f->counts && qcow2_counts_get(f->counts, cluster) == 1
               ? word | QCOW2_ENTRY_COPIED
               : word & ~QCOW2_ENTRY_COPIED;
}

/* An L2 entry's first word as it should be. What refers to nothing is left alone. With a
 * data file each guest cluster has a place of its own there, and the flag tells whether
 * it is used. */
static uint64_t
right_l2_word(const Flags *f, uint64_t word)
{
    if (f->q->geometry.has_data_file)
        return word;
    if (word & QCOW2_L2_COMPRESSED)
        return word & ~QCOW2_ENTRY_COPIED;
    if ((word & QCOW2_OFFSET_MASK) == 0)
        return word;
    return with_right_flag(f, word, word & QCOW2_OFFSET_MASK);
}

/* Corrects a slice: all from its first wrong word to its last is written at once. */
static QimgErrno
correct_slice(Flags *f, uint64_t l2_table_offset, uint64_t first_entry)
{
    Qcow2 *q = f->q;
    unsigned step = q->geometry.l2_entry_words;
    uint64_t words[TABLE_SLICE_WORDS];
    uint64_t first = UINT64_MAX, end = 0;
    Qcow2L2Slice slice;
    QimgErrno err = qcow2_l2_pin(q, l2_table_offset, first_entry, &slice);

    if (err)
        return err;
    for (unsigned i = 0; i < q->slice_words; i++) {
        uint64_t old = table_slice_get(&slice.slice, i);

        words[i] = i % step == 0 ? right_l2_word(f, old) : old;
        if (words[i] == old)
            continue;
        first = qimg_min_u64(first, i);
        end = i + step;
        f->n_corrected++;
    }
    if (end > 0)
        err = qcow2_l2_store(q, &slice, first, words + first, end - first, false);
    table_slice_unpin(&slice.slice);
    return err;
}

/* Corrects an L2 table of the active disk. It is read past the cache, which is left to
 * the readers; only slices in which something is wrong are loaded. */
static QimgErrno
correct_l2_table(Flags *f, uint64_t l2_table_offset, uint64_t *buffer)
{
    Qcow2 *q = f->q;
    unsigned step = q->geometry.l2_entry_words;
    uint64_t n_bytes = qimg_min_u64(q->geometry.cluster_bytes, READ_BYTES);

    for (uint64_t done = 0; done < q->geometry.cluster_bytes; done += n_bytes) {
        QimgErrno err = qimg_storage_read(
            q->base.file, QIMG_IO_L2, qimg_host(l2_table_offset + done), buffer, n_bytes);
        uint64_t n_words = n_bytes / sizeof *buffer;
        uint64_t i = 0;

        if (err)
            return err;
        qimg_be64_array_to_host(buffer, n_words);
        while (i < n_words) {
            if (right_l2_word(f, buffer[i]) == buffer[i]) {
                i += step;
                continue;
            }
            err = correct_slice(f, l2_table_offset, (done / sizeof *buffer + i) / step);
            if (err)
                return err;
            i = qimg_align_down(i, q->slice_words) + q->slice_words;
        }
    }
    return 0;
}

static QimgErrno
correct_l1_entry(Flags *f, uint64_t l1_index, uint64_t entry, uint64_t *buffer)
{
    uint64_t l2_table_offset = entry & QCOW2_OFFSET_MASK;
    uint64_t right = with_right_flag(f, entry, l2_table_offset);

    if (f->view == &f->q->base.active && right != entry) {
        QimgErrno err = qcow2_l1_store(f->q, l1_index, right);

        if (err)
            return err;
        f->n_corrected++;
    }
    return f->q->geometry.has_data_file ? 0
                                        : correct_l2_table(f, l2_table_offset, buffer);
}

/* Corrects the flags of the L1 table and of its L2 tables. */
static QimgErrno
correct_all(Flags *f)
{
    Qcow2 *q = f->q;
    g_autofree uint64_t *l1 = g_try_malloc(READ_BYTES);
    g_autofree uint64_t *buffer = g_try_malloc(READ_BYTES);
    uint64_t n_entries = f->view->n_l1_entries;
    uint64_t n;

    if (!l1 || !buffer)
        return -ENOMEM;
    for (uint64_t i = 0; i < n_entries; i += n) {
        QimgErrno err;

        n = qimg_min_u64(n_entries - i, READ_BYTES / sizeof *l1);
        err = qimg_storage_read(q->base.file, QIMG_IO_L1,
                                qimg_host(f->view->l1_table_offset.v + i * 8), l1,
                                n * sizeof *l1);
        if (err)
            return err;
        qimg_be64_array_to_host(l1, n);
        for (uint64_t j = 0; j < n; j++) {
            if ((l1[j] & QCOW2_OFFSET_MASK) == 0)
                continue;
            err = correct_l1_entry(f, i + j, l1[j], buffer);
            if (err)
                return err;
        }
    }
    return 0;
}

QimgErrno
qcow2_correct_copied_flags(Qcow2 *q, const QimgView *view, const Qcow2Counts *counts,
                           uint64_t *n_corrected_out)
{
    Flags f = {.q = q, .view = view, .counts = counts};
    QimgErrno err = correct_all(&f);

    if (n_corrected_out)
        *n_corrected_out = f.n_corrected;
    return err;
}
