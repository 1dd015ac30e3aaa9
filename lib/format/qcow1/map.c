/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest offset → run, for qcow version 1. No lock and no allocation on a cache hit; one
 * window of the file is pinned at a time. */
#include "format/qcow1/map.h"

#include "codec/qcow1-tables.h"
#include "format/runs.h"

/* The window that holds the entry at an offset of the file. */
typedef struct {
    TableSlice slice;
    unsigned first;  /* the entry's word */
    uint64_t n_left; /* words from there to the window's end */
} Window;

static QimgErrno
pin_window(Qcow1 *q, TableKind kind, uint64_t entry_offset, Window *out)
{
    uint64_t in_window = entry_offset % TABLE_SLICE_BYTES;

    out->first = (unsigned)(in_window / 8);
    out->n_left = TABLE_SLICE_WORDS - out->first;
    return qimg_format_pin(&q->base, kind, entry_offset - in_window, TABLE_SLICE_WORDS,
                           &out->slice);
}

/* Reads the L1 entry @l1_index, and counts the run of empty ones, at most @n_wanted, that
 * begins with it in its window. */
static QimgErrno
look_up_l1(Qcow1 *q, uint64_t l1_index, uint64_t n_wanted, uint64_t *entry_out,
           uint64_t *n_empty_out)
{
    const QimgView *view = &q->base.active;
    Window window;
    QimgErrno err =
        pin_window(q, TABLE_L1, view->l1_table_offset.v + l1_index * 8, &window);

    if (err)
        return err;
    *entry_out = table_slice_get(&window.slice, window.first);
    *n_empty_out = table_slice_count_zeros(
        &window.slice, window.first,
        qimg_min_u64(n_wanted,
                     qimg_min_u64(window.n_left, view->n_l1_entries_in_file - l1_index)));
    table_slice_unpin(&window.slice);
    return 0;
}

/* Decodes the entries of @window, at most @n_max, that give one answer. */
static QimgL2Entry
qcow1_scan(const Qcow1 *q, const Window *window, uint64_t n_max, uint64_t *n_out)
{
    unsigned cluster_bits = q->header.cluster_bits;
    QimgL2Entry first =
        qcow1_l2_decode(cluster_bits, table_slice_get(&window->slice, window->first));
    uint64_t n = 1;

    if (first.kind == QIMG_L2_UNALLOCATED)
        n = table_slice_count_zeros(&window->slice, window->first, n_max);
    for (; n < n_max; n++) {
        QimgL2Entry next = qcow1_l2_decode(
            cluster_bits, table_slice_get(&window->slice, window->first + n));

        if (!qimg_l2_continues(&first, &next, n << cluster_bits))
            break;
    }
    *n_out = n;
    return first;
}

/* The run according to the window with the L2 entry of @guest_offset. *@at_end_out: the
 * run reaches the window's end, so that the next one may continue it. */
static QimgErrno
qcow1_map_in_table(Qcow1 *q, uint64_t l2_table_offset, uint64_t guest_offset,
                   uint64_t length_bytes, QimgRun *run_out, bool *at_end_out)
{
    unsigned cluster_bits = q->header.cluster_bits;
    uint64_t in_cluster = guest_offset & (q->base.cluster_bytes - 1);
    uint64_t n_table = UINT64_C(1) << q->header.l2_bits;
    uint64_t l2_index = guest_offset >> cluster_bits & (n_table - 1);
    uint64_t entry_offset = l2_table_offset + l2_index * 8;
    uint64_t n_there, n_max, n_clusters, run_bytes;
    Window window;
    QimgL2Entry e;
    QimgErrno err;

    if (qimg_format_is_beyond_end(&q->base, entry_offset)) { /* the table is truncated */
        *run_out = qimg_run_damaged(QIMG_RULE_L2_BEYOND_EOF,
                                    ((n_table - l2_index) << cluster_bits) - in_cluster);
        *at_end_out = true;
        return 0;
    }
    err = pin_window(q, TABLE_L2, entry_offset, &window);
    if (err)
        return err;
    n_there = qimg_min_u64(window.n_left, n_table - l2_index);
    n_max = qimg_min_u64(
        n_there, qimg_div_round_up(qimg_min_u64(length_bytes, INT64_MAX) + in_cluster,
                                   q->base.cluster_bytes));
    while (n_max > 1 &&
           qimg_format_is_beyond_end(&q->base, entry_offset + (n_max - 1) * 8))
        n_max /= 2;
    e = qcow1_scan(q, &window, n_max, &n_clusters);
    table_slice_unpin(&window.slice);
    run_bytes = (n_clusters << cluster_bits) - in_cluster;
    *run_out = qimg_run_of_entry(&q->base, &e, in_cluster, run_bytes);
    *at_end_out = run_out->length_bytes == run_bytes && n_clusters == n_there;
    return 0;
}

/* QimgMapStep: the run according to one window of the L1 table or of an L2 table. */
static QimgErrno
qcow1_map_step(QimgFormat *format, const QimgView *view, const void *user,
               uint64_t guest_offset, uint64_t length_bytes, QimgRun *run_out,
               bool *at_end_out)
{
    Qcow1 *q = (Qcow1 *)format;
    unsigned l1_shift = (unsigned)q->header.cluster_bits + q->header.l2_bits;
    uint64_t l1_index = guest_offset >> l1_shift;
    uint64_t table_guest_bytes = UINT64_C(1) << l1_shift;
    uint64_t in_table = guest_offset & (table_guest_bytes - 1);
    uint64_t l2_table_offset, n_empty;
    QimgErrno err;

    (void)view; /* the format has only one */
    (void)user;
    *at_end_out = false;
    if (l1_index >= q->base.active.n_l1_entries_in_file) {
        uint64_t end = (uint64_t)q->base.active.n_l1_entries << l1_shift;

        *run_out = qimg_run_damaged(QIMG_RULE_L1_BEYOND_EOF, end - guest_offset);
        return 0;
    }
    err = look_up_l1(q, l1_index, ((length_bytes - 1) >> l1_shift) + 2, &l2_table_offset,
                     &n_empty);
    if (err)
        return err;
    if (n_empty > 0) {
        *run_out = (QimgRun){.kind = QIMG_RUN_UNALLOCATED,
                             .length_bytes = (n_empty << l1_shift) - in_table};
        *at_end_out = true;
        return 0;
    }
    if (!qimg_is_aligned(l2_table_offset, 8) ||
        qimg_format_is_beyond_end(&q->base, l2_table_offset)) {
        *run_out = qimg_run_damaged(qimg_is_aligned(l2_table_offset, 8)
                                        ? QIMG_RULE_L2_BEYOND_EOF
                                        : QIMG_RULE_QCOW1_L2_UNALIGNED,
                                    table_guest_bytes - in_table);
        *at_end_out = true;
        return 0;
    }
    return qcow1_map_in_table(q, l2_table_offset, guest_offset, length_bytes, run_out,
                              at_end_out);
}

QimgErrno
qcow1_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
          uint64_t length_bytes, QimgRun *run_out)
{
    const Qcow1 *q = (const Qcow1 *)format;

    return qimg_map_by_steps(format, view, NULL, guest_offset.v, length_bytes,
                             (uint64_t)TABLE_SLICE_WORDS << q->header.cluster_bits,
                             qcow1_map_step, NULL, run_out);
}
