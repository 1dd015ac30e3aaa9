/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest offset → run. No lock and no allocation on a cache hit; at most one L1 and one L2
 * slice are pinned at a time. */
#include "format/qcow2/tables/map.h"

#include "base/checked.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/tables/l2-entry.h"
#include "format/runs.h"

/* Scans the entries of one slice of standard entries from @index on. */
static QimgL2Entry
scan_standard(const Qcow2Geometry *g, const TableSlice *slice, uint64_t index,
              uint64_t n_max, uint64_t cluster_guest_offset, uint64_t *n_out)
{
    QimgL2Entry first =
        qcow2_l2_decode(g, qcow2_l2_load(slice, index, 1).word, cluster_guest_offset);
    uint64_t n = first.kind == QIMG_L2_UNALLOCATED
                     ? qimg_max_u64(table_slice_count_zeros(slice, index, n_max), 1)
                     : 1;

    for (; n < n_max; n++) {
        uint64_t distance = n << g->cluster_bits;
        QimgL2Entry next = qcow2_l2_decode(g, qcow2_l2_load(slice, index + n, 1).word,
                                           cluster_guest_offset + distance);

        if (!qimg_l2_continues(&first, &next, distance))
            break;
    }
    *n_out = n;
    return first;
}

/* Decodes the part from @subcluster on of the extended entry @index. */
static QimgL2Entry
decode_extended(const Qcow2Geometry *g, const TableSlice *slice, uint64_t index,
                uint32_t subcluster, uint64_t guest_offset)
{
    Qcow2L2Words e = qcow2_l2_load(slice, index, 2);

    return qcow2_l2_decode_extended(g, e.word, e.bitmap, subcluster, guest_offset);
}

/* The same for extended entries, in subclusters: from @subcluster of entry @index on.
 * DATA answers have the host offset of the first entry's cluster. */
static QimgL2Entry
scan_extended(const Qcow2Geometry *g, const TableSlice *slice, uint64_t index,
              uint64_t n_max, uint32_t subcluster, uint64_t cluster_guest_offset,
              uint64_t *n_subclusters_out)
{
    QimgL2Entry first =
        decode_extended(g, slice, index, subcluster, cluster_guest_offset);
    uint64_t n_subclusters = first.n_subclusters;

    for (uint64_t n = 1;
         n < n_max && n_subclusters == n * QCOW2_N_SUBCLUSTERS - subcluster; n++) {
        uint64_t distance = n << g->cluster_bits;
        QimgL2Entry next =
            decode_extended(g, slice, index + n, 0, cluster_guest_offset + distance);

        if (!qimg_l2_continues(&first, &next, distance))
            break;
        n_subclusters += next.n_subclusters;
    }
    *n_subclusters_out = n_subclusters;
    return first;
}

/* Scans the slice that holds the entry of @guest_offset. *@at_end_out: the run reaches
 * the slice's end, so that the next slice may continue it. */
static QimgErrno
map_in_table(Qcow2 *q, uint64_t l2_table_offset, uint64_t guest_offset,
             uint64_t length_bytes, QimgRun *run_out, bool *at_end_out)
{
    const Qcow2Geometry *g = &q->geometry;
    uint64_t in_cluster = guest_offset & (g->cluster_bytes - 1);
    uint64_t cluster_guest_offset = guest_offset - in_cluster;
    uint64_t l2_index =
        (guest_offset >> g->cluster_bits) & ((UINT64_C(1) << g->l2_bits) - 1);
    uint64_t slice_entries = q->slice_words / g->l2_entry_words;
    uint64_t in_slice = l2_index & (slice_entries - 1);
    uint64_t slice_offset =
        l2_table_offset + (l2_index - in_slice) * g->l2_entry_words * 8;
    uint64_t n_max =
        qimg_min_u64(slice_entries - in_slice,
                     qimg_div_round_up(qimg_min_u64(length_bytes, INT64_MAX) + in_cluster,
                                       g->cluster_bytes));
    uint64_t entry_offset = slice_offset + in_slice * g->l2_entry_words * 8;
    uint64_t n_units, run_bytes;
    table_autoslice slice = {0};
    QimgL2Entry e;
    QimgErrno err;

    if (qimg_format_is_beyond_end(&q->base, entry_offset)) { /* the table is truncated */
        *run_out =
            qimg_run_damaged(QIMG_RULE_L2_BEYOND_EOF, g->cluster_bytes - in_cluster);
        return 0;
    }
    while (n_max > 1 && qimg_format_is_beyond_end(
                            &q->base, entry_offset + (n_max - 1) * g->l2_entry_words * 8))
        n_max /= 2;
    /* A private copy, made if the cache has no free slot, would come from the file while
     * a writer changes the two words of an entry there. */
    err = g->extended_l2 && q->base.is_writable
              ? qimg_format_pin_to_change(&q->base, TABLE_L2, slice_offset,
                                          q->slice_words, &slice)
              : qimg_format_pin(&q->base, TABLE_L2, slice_offset, q->slice_words, &slice);
    if (err)
        return err;
    if (g->extended_l2) {
        uint32_t subcluster = (uint32_t)(in_cluster >> g->subcluster_bits);

        e = scan_extended(g, &slice, in_slice, n_max, subcluster, cluster_guest_offset,
                          &n_units);
        run_bytes = ((n_units + subcluster) << g->subcluster_bits) - in_cluster;
    } else {
        e = scan_standard(g, &slice, in_slice, n_max, cluster_guest_offset, &n_units);
        run_bytes = (n_units << g->cluster_bits) - in_cluster;
    }
    *run_out = qimg_run_of_entry(&q->base, &e, in_cluster, run_bytes);
    *at_end_out = run_out->length_bytes == run_bytes &&
                  run_bytes + in_cluster == (slice_entries - in_slice) << g->cluster_bits;
    return 0;
}

/* One step: the run according to a single L1 slice or L2 slice. */
static QimgErrno
map_step(QimgFormat *format, const QimgView *view, uint64_t guest_offset,
         uint64_t length_bytes, QimgRun *run_out, bool *at_end_out)
{
    Qcow2 *q = (Qcow2 *)format;
    const Qcow2Geometry *g = &q->geometry;
    uint64_t l1_index = guest_offset >> g->l1_shift;
    uint64_t table_guest_bytes = UINT64_C(1) << g->l1_shift;
    uint64_t in_table = guest_offset & (table_guest_bytes - 1);
    uint64_t entry, n_empty, n_wanted, l2_table_offset;
    QimgErrno err;

    *at_end_out = false;
    if (l1_index >= view->n_l1_entries) { /* only a snapshot's table can be too short */
        *run_out = (QimgRun){.kind = QIMG_RUN_ZERO, .length_bytes = length_bytes};
        return 0;
    }
    if (l1_index >= view->n_l1_entries_in_file) {
        *run_out =
            qimg_run_damaged(QIMG_RULE_L1_BEYOND_EOF, table_guest_bytes - in_table);
        *at_end_out = true;
        return 0;
    }
    n_wanted = ((length_bytes - 1) >> g->l1_shift) + 2;
    err = qimg_count_empty_l1(format, view, l1_index, n_wanted, QCOW2_OFFSET_MASK, &entry,
                              &n_empty);
    if (err)
        return err;
    if (n_empty > 0) {
        *run_out = (QimgRun){.kind = QIMG_RUN_UNALLOCATED,
                             .length_bytes = (n_empty << g->l1_shift) - in_table};
        *at_end_out = true;
        return 0;
    }
    l2_table_offset = entry & QCOW2_OFFSET_MASK;
    if (!qimg_is_aligned(l2_table_offset, g->cluster_bytes) ||
        qimg_format_is_beyond_end(&q->base, l2_table_offset)) {
        *run_out = qimg_run_damaged(qimg_is_aligned(l2_table_offset, g->cluster_bytes)
                                        ? QIMG_RULE_L2_BEYOND_EOF
                                        : QIMG_RULE_L2_UNALIGNED,
                                    table_guest_bytes - in_table);
        *at_end_out = true;
        return 0;
    }
    return map_in_table(q, l2_table_offset, guest_offset, length_bytes, run_out,
                        at_end_out);
}

/* The number of guest bytes from @guest_offset on (a cluster's start) that are surely
 * unallocated, according to the next part of the L2 table. A walk over a large, nearly
 * empty disk needs each table once, so the part is neither swapped nor cached. */
static uint64_t
peek_unallocated(QimgFormat *format, const QimgView *view, uint64_t guest_offset,
                 uint64_t length_bytes)
{
    Qcow2 *q = (Qcow2 *)format;
    const Qcow2Geometry *g = &q->geometry;
    uint64_t n_table = UINT64_C(1) << g->l2_bits;
    uint64_t l1_index = guest_offset >> g->l1_shift;
    uint64_t l2_index = (guest_offset >> g->cluster_bits) & (n_table - 1);
    uint64_t n_entries =
        qimg_min_u64(n_table - l2_index, length_bytes >> g->cluster_bits);
    uint64_t entry, n_empty;

    if (l1_index >= view->n_l1_entries_in_file ||
        qimg_count_empty_l1(format, view, l1_index, 1, QCOW2_OFFSET_MASK, &entry,
                            &n_empty) ||
        n_empty > 0 || !qimg_is_aligned(entry & QCOW2_OFFSET_MASK, g->cluster_bytes))
        return 0;
    return qimg_count_zero_entries(format,
                                   (entry & QCOW2_OFFSET_MASK) +
                                       l2_index * g->l2_entry_words * sizeof(uint64_t),
                                   n_entries, g->l2_entry_words)
           << g->cluster_bits;
}

QimgErrno
qcow2_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
          uint64_t length_bytes, QimgRun *run_out)
{
    const Qcow2 *q = (const Qcow2 *)format;
    uint64_t slice_guest_bytes = (uint64_t)q->slice_words / q->geometry.l2_entry_words
                                 << q->geometry.cluster_bits;

    return qimg_map_by_steps(format, view, guest_offset.v, length_bytes,
                             slice_guest_bytes, map_step, peek_unallocated, run_out);
}

void
qcow2_will_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
               TableKind level)
{
    const Qcow2 *q = (const Qcow2 *)format;
    const Qcow2Geometry *g = &q->geometry;
    uint64_t l1_index = guest_offset.v >> g->l1_shift;
    uint64_t l2_index =
        (guest_offset.v >> g->cluster_bits) & ((UINT64_C(1) << g->l2_bits) - 1);
    uint64_t entry, n_empty;

    if (level == TABLE_L1) {
        qimg_will_read_l1(format, view, l1_index);
        return;
    }
    if (l1_index >= view->n_l1_entries_in_file ||
        qimg_count_empty_l1(format, view, l1_index, 1, QCOW2_OFFSET_MASK, &entry,
                            &n_empty) ||
        n_empty > 0)
        return;
    l2_index = qimg_align_down(l2_index, q->slice_words / g->l2_entry_words);
    qimg_storage_will_read(format->file,
                           qimg_host((entry & QCOW2_OFFSET_MASK) +
                                     l2_index * g->l2_entry_words * sizeof(uint64_t)),
                           q->slice_words * sizeof(uint64_t));
}
