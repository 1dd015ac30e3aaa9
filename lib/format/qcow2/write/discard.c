/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zeroing of clusters and subclusters by their entries. Spec: qcow2-write section 6. */
#include "format/qcow2/write/discard.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/layer/qcow2.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/tables/tables.h"
#include "format/qcow2/write/old-entry.h"

typedef struct {
    Qcow2 *q;
    QimgZeroMode mode;
    bool below_is_zero;
    uint64_t start; /* guest bytes, units */
    uint64_t end;
} Zeroing;

/* The changed part of a slice, and its old entries. */
typedef struct {
    uint64_t n_entries;
    uint64_t old_words[TABLE_SLICE_WORDS];
    uint64_t new_words[TABLE_SLICE_WORDS];
} Change;

/* The new value of a standard entry. */
static uint64_t
zero_standard(const Zeroing *z, uint64_t word)
{
    const Qcow2Geometry *g = &z->q->geometry;
    bool has_cluster = !(word & QCOW2_L2_COMPRESSED) && qcow2_l2_has_cluster(g, word);

    if (word == 0 && z->below_is_zero)
        return 0;
    if (g->version < 3) /* has no zero entries: the layer below shows, and is zeros */
        return 0;
    if (has_cluster && z->mode == QIMG_ZERO_KEEP && (word & QCOW2_ENTRY_COPIED))
        return word | QCOW2_L2_ZERO;
    return QCOW2_L2_ZERO;
}

/* The new value of an extended entry when the subclusters of @mask are to be zeros.
 * -EOPNOTSUPP for a part of a compressed cluster. */
static QimgErrno
zero_extended(const Zeroing *z, const uint64_t old[2], uint64_t mask, uint64_t out[2])
{
    bool is_whole = mask == QCOW2_ALL_ALLOCATED;
    bool is_compressed = (old[0] & QCOW2_L2_COMPRESSED) != 0;
    uint64_t bitmap = is_compressed ? 0 : old[1];

    if (is_compressed && !is_whole)
        return -EOPNOTSUPP;
    out[0] = is_compressed ? 0 : old[0];
    out[1] = (bitmap & ~mask) | mask << 32;
    if (old[0] == 0 && old[1] == 0 && z->below_is_zero) {
        out[1] = 0;
    } else if ((uint32_t)out[1] == 0 &&
               (z->mode == QIMG_ZERO_UNMAP || !(out[0] & QCOW2_ENTRY_COPIED))) {
        out[0] = 0; /* the host cluster is no longer in use */
    }
    return 0;
}

/* Computes the new entries of the slice, from entry @l2_index on for the clusters from
 * @cluster_start on. */
static QimgErrno
make_change(const Zeroing *z, const Qcow2L2Slice *slice, uint64_t l2_index,
            uint64_t cluster_start, Change *change)
{
    const Qcow2Geometry *g = &z->q->geometry;
    uint64_t n_words = g->l2_entry_words;

    for (uint64_t i = 0; i < change->n_entries; i++) {
        uint64_t guest_offset = cluster_start + (i << g->cluster_bits);
        uint64_t first = qimg_max_u64(z->start, guest_offset) - guest_offset;
        uint64_t end =
            qimg_min_u64(z->end, guest_offset + g->cluster_bytes) - guest_offset;
        uint64_t *old = &change->old_words[i * n_words];
        Qcow2L2Words e;
        QimgErrno err;

        e = qcow2_l2_get(z->q, slice, l2_index + i);
        old[0] = e.word;
        if (n_words == 2)
            old[1] = e.bitmap;
        err = qcow2_check_entry(z->q, e.word, e.bitmap, guest_offset);
        if (err)
            return err;
        if (n_words == 2)
            err = zero_extended(z, old, qcow2_subcluster_mask(g, first, end),
                                &change->new_words[i * 2]);
        else
            change->new_words[i] = zero_standard(z, old[0]);
        if (err && i == 0)
            return err;
        if (err) /* the next call begins there */
            change->n_entries = i;
    }
    return 0;
}

/* Drops the references of the old entries that the new ones no longer have. */
static void
free_old(Qcow2 *q, const Change *change)
{
    uint64_t n_words = q->geometry.l2_entry_words;

    for (uint64_t i = 0; i < change->n_entries; i++) {
        uint64_t old = change->old_words[i * n_words];

        if ((old & QCOW2_L2_COMPRESSED) ||
            (old & QCOW2_OFFSET_MASK) !=
                (change->new_words[i * n_words] & QCOW2_OFFSET_MASK))
            qcow2_free_entry_later(q, old);
    }
}

/* Zeros the range in the data file, if there is one: for raw readers of it, and to free
 * the space. Not if it is encrypted: to a reader that has looked at the old entry, or
 * after a crash that leaves it, zeros would be noise. Spec: qcow2-write section 12. */
static QimgErrno
zero_data_file(const Zeroing *z, uint64_t end)
{
    if (!z->q->geometry.has_data_file || z->q->base.encryption)
        return 0;
    return qimg_storage_zero(z->q->base.data_file, QIMG_IO_DATA, qimg_host(z->start),
                             end - z->start);
}

/* With the range announced: changes the entries of one slice. */
static QimgErrno
zero_announced(const Zeroing *z, const QimgTablePlace *p, uint64_t *done_out)
{
    Qcow2 *q = z->q;
    const Qcow2Geometry *g = &q->geometry;
    uint64_t table_offset, n_words;
    Change change = {.n_entries = p->n_entries};
    Qcow2L2Slice slice = {0};
    QimgErrno err = qcow2_ensure_l2_table(q, p->l1_index, &table_offset);

    if (!err)
        err = qcow2_l2_pin(q, table_offset, p->l2_index, &slice);
    if (err)
        return err;
    err = make_change(z, &slice, p->l2_index, p->cluster_start, &change);
    n_words = change.n_entries * g->l2_entry_words;
    *done_out =
        qimg_min_u64(p->cluster_start + (change.n_entries << g->cluster_bits), z->end) -
        z->start;
    /* First in a raw data file: it must not keep data that the image no longer shows. */
    if (!err && q->base.has_raw_data_file)
        err = zero_data_file(z, z->start + *done_out);
    if (!err &&
        memcmp(change.old_words, change.new_words, n_words * sizeof(uint64_t)) != 0) {
        err = qcow2_l2_store(q, &slice, p->l2_index * g->l2_entry_words % q->slice_words,
                             change.new_words, n_words,
                             (Qcow2L2Order){.is_bitmap_first = true});
        if (!err)
            free_old(q, &change);
    }
    table_slice_unpin(&slice.slice);
    if (!err && !q->base.has_raw_data_file && z->mode == QIMG_ZERO_UNMAP)
        err = zero_data_file(z, z->start + *done_out);
    return err;
}

QimgErrno
qcow2_zero(QimgFormat *format, QimgGuestOffset guest_offset, uint64_t length_bytes,
           QimgZeroMode mode, bool below_is_zero, uint64_t *done_out)
{
    Qcow2 *q = (Qcow2 *)format;
    const Qcow2Geometry *g = &q->geometry;
    Zeroing z = {.q = q,
                 .mode = mode,
                 .below_is_zero = below_is_zero,
                 .start = guest_offset.v,
                 .end = guest_offset.v + length_bytes};
    QimgTablePlace p = qcow2_place_of(q, guest_offset.v, length_bytes);
    uint64_t table_offset, end;
    QimgInflight inflight;
    bool is_private;
    QimgErrno err = qcow2_begin_change(q);

    if (!err && g->version < 3 && !below_is_zero)
        err = -EOPNOTSUPP;
    if (!err)
        err = qcow2_find_l2_table(q, p.l1_index, &table_offset, &is_private);
    if (err)
        return err;
    if (table_offset == 0 && below_is_zero) {
        z.end = qimg_min_u64(z.end, (p.l1_index + 1) << g->l1_shift);
        *done_out = z.end - z.start;
        return zero_data_file(&z, z.end);
    }
    end = p.cluster_start + (p.n_entries << g->cluster_bits);
    inflight_begin(format->inflight, &inflight, p.cluster_start, &end);
    p.n_entries = (end - p.cluster_start) >> g->cluster_bits;
    err = zero_announced(&z, &p, done_out);
    inflight_end(format->inflight, &inflight);
    return err;
}
