/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zeroing of clusters. An allocated cluster stays allocated, since the format has no list
 * of free clusters: its bytes become zeros, and the host's file system frees their space.
 * Spec: qed section 4. */
#include "format/qed/zero.h"

#include "base/checked.h"
#include "format/qed/place.h"
#include "format/qed/tables.h"

typedef struct {
    Qed *qed;
    QimgZeroMode mode;
    bool below_is_zero;
    uint64_t start; /* guest bytes, whole clusters */
    uint64_t end;
} Zeroing;

/* The entries of one slice, from the first one on. */
typedef struct {
    TableSlice slice;
    uint64_t slice_offset;
    uint64_t index; /* in the slice */
} Entries;

/* Makes the bytes of adjacent clusters zeros. */
static QimgErrno
zero_data(const Zeroing *z, uint64_t host_offset, uint64_t n_bytes)
{
    QimgStorage *file = z->qed->base.file;
    QimgErrno err =
        qimg_storage_zero(file, QIMG_IO_DATA, qimg_host(host_offset), n_bytes);

    if (!err && z->mode == QIMG_ZERO_KEEP)
        err = qimg_storage_allocate(file, qimg_host(host_offset), n_bytes);
    return err;
}

/* Makes the first entries that are treated alike read as zeros; *@n_out > 0 of @n_max. */
static QimgErrno
zero_alike(const Zeroing *z, Entries *e, uint64_t n_max, uint64_t *n_out)
{
    Qed *qed = z->qed;
    unsigned bits = qed->header.cluster_bits;
    uint64_t first = table_slice_get(&e->slice, e->index);
    bool is_data = first != QED_ENTRY_UNALLOCATED && first != QED_ENTRY_ZERO;
    uint64_t zeros[TABLE_SLICE_WORDS];
    uint64_t n = 0;

    while (n < n_max && table_slice_get(&e->slice, e->index + n) ==
                            first + (is_data ? n << bits : 0)) {
        QimgErrno err = qed_check_entry(qed, first + (is_data ? n << bits : 0));

        if (err)
            return err;
        zeros[n++] = QED_ENTRY_ZERO;
    }
    *n_out = n;
    if (is_data)
        return zero_data(z, first, n << bits);
    if (first == QED_ENTRY_ZERO || z->below_is_zero)
        return 0;
    return qimg_format_store_words(&qed->base,
                                   &(QimgTableChange){.purpose = QIMG_IO_L2,
                                                      .slice_offset = e->slice_offset,
                                                      .slice = &e->slice,
                                                      .word_index = e->index,
                                                      .words = zeros,
                                                      .n_words = n,
                                                      .entry_words = 1});
}

/* With the range announced. */
static QimgErrno
qed_zero_announced(const Zeroing *z, const QimgTablePlace *p, uint64_t *done_out)
{
    Qed *qed = z->qed;
    unsigned bits = qed->header.cluster_bits;
    uint64_t table_offset, n_done = 0;
    Entries e = {.index = p->index_in_slice};
    QimgErrno err = qed_ensure_l2_table(qed, p->l1_index, &table_offset);

    if (err)
        return err;
    e.slice_offset = qed_slice_offset(table_offset, p->l2_index);
    err = qimg_format_pin_to_change(&qed->base, TABLE_L2, e.slice_offset,
                                    TABLE_SLICE_WORDS, &e.slice);
    while (!err && n_done < p->n_entries) {
        uint64_t n = 0;

        err = zero_alike(z, &e, p->n_entries - n_done, &n);
        if (!err) {
            n_done += n;
            e.index += n;
        }
    }
    table_slice_unpin(&e.slice);
    *done_out = qimg_min_u64(z->start + (n_done << bits), z->end) - z->start;
    return n_done > 0 ? 0
                      : err; /* a request that continues there meets the error again */
}

QimgErrno
qed_zero(QimgFormat *format, QimgGuestOffset guest_offset, uint64_t length_bytes,
         QimgZeroMode mode, bool below_is_zero, uint64_t *done_out)
{
    Qed *qed = (Qed *)format;
    unsigned bits = qed->header.cluster_bits;
    Zeroing z = {.qed = qed,
                 .mode = mode,
                 .below_is_zero = below_is_zero,
                 .start = guest_offset.v,
                 .end = guest_offset.v + length_bytes};
    QimgTablePlace p = qed_place_of(qed, guest_offset.v, length_bytes);
    uint64_t table_offset, end;
    QimgInflight inflight;
    QimgErrno err = qed_begin_change(qed);

    if (!err)
        err = qed_find_l2_table(qed, p.l1_index, &table_offset);
    if (err)
        return err;
    if (table_offset == 0 && below_is_zero) {
        *done_out = qimg_min_u64(z.end, (p.l1_index + 1) << qed->l1_shift) - z.start;
        return 0;
    }
    end = z.start + (p.n_entries << bits);
    inflight_begin(format->inflight, &inflight, z.start, &end);
    p.n_entries = (end - z.start) >> bits;
    err = qed_zero_announced(&z, &p, done_out);
    inflight_end(format->inflight, &inflight);
    return err;
}
