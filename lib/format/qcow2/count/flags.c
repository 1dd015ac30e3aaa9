/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The COPIED flags: whether only the active disk refers to a cluster, so that it may be
 * written in place. Their correct values, and their correction; and the few entries that
 * a repair replaces. Each entry is right by itself, whatever else reached the disk. Spec:
 * qcow2 section 4. */

#include "format/qcow2/count/flags.h"

#include <errno.h>

#include "base/checked.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/tables/tables.h"

#define READ_BYTES (64 * QIMG_KIB)

/* The scope of a correction, and its source. */
typedef struct {
    Qcow2 *q;
    const QimgView *view;
    const Qcow2Counts *counts; /* NULL: all is shared */
    bool knows_tables;         /* @counts tells the L2 tables; only these are corrected */
    bool mends_entries;        /* removes unaligned offsets of zero clusters */
    bool passes_over_errors;
    uint64_t *buffer; /* READ_BYTES, during the correction */
    uint64_t n_corrected;
} Flags;

/* ---- correct values ---- */

static uint64_t
with_right_flag(const Qcow2 *q, const Qcow2Counts *counts, uint64_t word)
{
    uint64_t host_offset = word & QCOW2_OFFSET_MASK;
    uint64_t cluster = host_offset >> q->geometry.cluster_bits;

    if (host_offset == 0 || !qimg_is_aligned(host_offset, q->geometry.cluster_bytes) ||
        (counts && cluster >= counts->n_clusters))
        return word;
    return counts && qcow2_counts_get(counts, cluster) == 1 ? word | QCOW2_ENTRY_COPIED
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
    /* In a data file each guest cluster has a place of its own; at offset 0 only the flag
     * tells whether it is used. */
    if (q->geometry.has_data_file)
        return (word & QCOW2_OFFSET_MASK) ? word | QCOW2_ENTRY_COPIED : word;
    return with_right_flag(q, counts, word);
}

/* ---- correcting L2 tables ---- */

/* An entry's correct first word; @is_active: flags count. */
static uint64_t
right_word(const Flags *f, uint64_t word, uint64_t bitmap, bool is_active)
{
    const Qcow2Geometry *g = &f->q->geometry;

    if (f->mends_entries && qcow2_is_unaligned_zero(g, word, bitmap))
        return g->extended_l2 ? 0 : QCOW2_L2_ZERO;
    return is_active ? qcow2_right_l2_word(f->q, f->counts, word) : word;
}

/* Corrects a slice: writes all from its first wrong word to its last at once. */
static QimgErrno
correct_slice(Flags *f, uint64_t l2_table_offset, uint64_t first_entry, bool is_active)
{
    Qcow2 *q = f->q;
    unsigned step = q->geometry.l2_entry_words;
    uint64_t words[TABLE_SLICE_WORDS];
    uint64_t first = UINT64_MAX, end = 0;
    Qcow2L2Slice slice;
    QimgErrno err = qcow2_l2_pin(q, l2_table_offset, first_entry, &slice);

    if (err)
        return err;
    qcow2_l2_load_words(&slice.slice, 0, step, words, q->slice_words);
    for (unsigned i = 0; i < q->slice_words; i += step) {
        uint64_t right = right_word(f, words[i], words[i + step - 1], is_active);

        if (words[i] == right)
            continue;
        words[i] = right;
        first = qimg_min_u64(first, i);
        end = i + step;
        f->n_corrected++;
    }
    if (end > 0)
        err = qcow2_l2_store(q, &slice, first, words + first, end - first,
                             (Qcow2L2Order){0});
    table_slice_unpin(&slice.slice);
    return err;
}

/* Corrects an L2 table. Reads it past the cache, which stays free for readers; loads only
 * slices with a wrong word. */
static QimgErrno
correct_l2_table(Flags *f, uint64_t l2_table_offset, bool is_active, uint64_t *buffer)
{
    Qcow2 *q = f->q;
    unsigned step = q->geometry.l2_entry_words;
    uint64_t n_bytes = qimg_min_u64(q->geometry.cluster_bytes, READ_BYTES);

    for (uint64_t done = 0; done < q->geometry.cluster_bytes; done += n_bytes) {
        uint64_t n_words = n_bytes / sizeof *buffer;
        QimgErrno err = qimg_format_read_words(&q->base, QIMG_IO_L2,
                                               l2_table_offset + done, buffer, n_words);
        uint64_t i = 0;

        if (err) /* a check has reported it as unreadable */
            return f->passes_over_errors && err != -ENOMEM ? 0 : err;
        while (i < n_words) {
            if (right_word(f, buffer[i], buffer[i + step - 1], is_active) == buffer[i]) {
                i += step;
                continue;
            }
            err = correct_slice(f, l2_table_offset, (done / sizeof *buffer + i) / step,
                                is_active);
            if (err)
                return err;
            i = qimg_align_down(i, q->slice_words) + q->slice_words;
        }
    }
    return 0;
}

/* Entries of snapshots' tables, which may be absent from the active disk. */
static QimgErrno
correct_all_l2_tables(Flags *f, uint64_t *buffer)
{
    QimgErrno err = 0;

    for (uint64_t c = 0; !err && c < f->counts->n_clusters; c++)
        if (qcow2_counts_get_use(f->counts, c) == QCOW2_USE_L2)
            err = correct_l2_table(f, c << f->q->geometry.cluster_bits, false, buffer);
    return err;
}

/* ---- the active L1 table ---- */

static QimgErrno
correct_l1_entry(void *user, uint64_t l1_index, uint64_t entry)
{
    Flags *f = user;
    const Qcow2Geometry *g = &f->q->geometry;
    uint64_t l2_table_offset = entry & QCOW2_OFFSET_MASK;
    uint64_t right = qcow2_right_l1_entry(f->q, f->counts, entry);

    if (l2_table_offset == 0)
        return 0;
    /* Flags in snapshots' L1 tables are ignored. */
    if (f->view == &f->q->base.active && right != entry) {
        QimgErrno err = qcow2_l1_store(f->q, l1_index, right, false);

        if (err)
            return err;
        f->n_corrected++;
    }
    /* A table in the cluster of another one must not be changed. */
    if (!qimg_is_aligned(l2_table_offset, g->cluster_bytes) ||
        (f->knows_tables &&
         qcow2_counts_get_use(f->counts, l2_table_offset >> g->cluster_bits) !=
             QCOW2_USE_L2))
        return 0;
    return correct_l2_table(f, l2_table_offset, true, f->buffer);
}

static QimgErrno
correct_all(Flags *f)
{
    QimgErrno err;

    f->buffer = g_try_malloc(READ_BYTES);
    if (!f->buffer)
        return -ENOMEM;
    err = qimg_format_each_word(&f->q->base, QIMG_IO_L1, f->view->l1_table_offset.v,
                                f->view->n_l1_entries_in_file, correct_l1_entry, f);
    if (!err && f->mends_entries && f->counts->n_unaligned_zeros > 0)
        err = correct_all_l2_tables(f, f->buffer);
    g_clear_pointer(&f->buffer, g_free);
    return err;
}

QimgErrno
qcow2_repair_flags(Qcow2 *q, const Qcow2Counts *counts, bool mends_entries,
                   uint64_t *n_corrected)
{
    Flags f = {
        .q = q,
        .view = &q->base.active,
        .counts = counts,
        .knows_tables = true,
        .mends_entries = mends_entries,
        .passes_over_errors = counts->n_errors > 0,
    };
    QimgErrno err = correct_all(&f);

    *n_corrected += f.n_corrected;
    return err;
}

QimgErrno
qcow2_correct_copied_flags(Qcow2 *q, const QimgView *view, const Qcow2Counts *counts)
{
    Flags f = {.q = q, .view = view, .counts = counts};

    return correct_all(&f);
}
