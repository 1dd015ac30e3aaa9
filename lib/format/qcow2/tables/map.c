/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest offset → run. No lock and no allocation on a cache hit; at most one L1 and one L2
 * slice are pinned at a time. */
#include "format/qcow2/tables/map.h"

#include "base/checked.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/tables/l2-entry.h"
#include "format/runs.h"
#include "format/table-map.h"

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

/* QimgTableShape.map_in_slice. */
static QimgErrno
qcow2_map_in_slice(QimgFormat *format, uint64_t l2_table_offset,
                   const QimgTablePlace *place, QimgRun *run_out, bool *at_end_out)
{
    Qcow2 *q = (Qcow2 *)format;
    const Qcow2Geometry *g = &q->geometry;
    uint64_t in_cluster = place->in_cluster_bytes;
    uint64_t in_slice = place->index_in_slice;
    uint64_t entry_offset = l2_table_offset + place->l2_index * g->l2_entry_words * 8;
    uint64_t slice_offset = entry_offset - in_slice * g->l2_entry_words * 8;
    uint64_t slice_entries = q->slice_words / g->l2_entry_words;
    uint64_t n_max = place->n_entries;
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

        e = scan_extended(g, &slice, in_slice, n_max, subcluster, place->cluster_start,
                          &n_units);
        run_bytes = ((n_units + subcluster) << g->subcluster_bits) - in_cluster;
    } else {
        e = scan_standard(g, &slice, in_slice, n_max, place->cluster_start, &n_units);
        run_bytes = (n_units << g->cluster_bits) - in_cluster;
    }
    *run_out = qimg_run_of_entry(&q->base, &e, in_cluster, run_bytes);
    *at_end_out = run_out->length_bytes == run_bytes &&
                  run_bytes + in_cluster == (slice_entries - in_slice) << g->cluster_bits;
    return 0;
}

/* QimgTableShape.check_l2_offset. */
static QimgRule
qcow2_check_l2_offset(QimgFormat *format, uint64_t l2_table_offset)
{
    if (!qimg_is_aligned(l2_table_offset, format->cluster_bytes))
        return QIMG_RULE_L2_UNALIGNED;
    return qimg_format_is_beyond_end(format, l2_table_offset) ? QIMG_RULE_L2_BEYOND_EOF
                                                              : QIMG_RULE_OK;
}

static QimgTableShape
qcow2_shape(const Qcow2 *q)
{
    return (QimgTableShape){
        .cluster_bits = q->geometry.cluster_bits,
        .l1_shift = q->geometry.l1_shift,
        .l2_entry_words = q->geometry.l2_entry_words,
        .l2_slice_words = q->slice_words,
        .l1_offset_mask = QCOW2_OFFSET_MASK,
        .check_l2_offset = qcow2_check_l2_offset,
        .map_in_slice = qcow2_map_in_slice,
    };
}

QimgErrno
qcow2_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
          uint64_t length_bytes, QimgRun *run_out)
{
    QimgTableShape shape = qcow2_shape((const Qcow2 *)format);

    return qimg_map_tables(format, view, &shape, guest_offset.v, length_bytes, run_out);
}

void
qcow2_will_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
               TableKind level)
{
    QimgTableShape shape = qcow2_shape((const Qcow2 *)format);

    qimg_will_map_tables(format, view, &shape, guest_offset.v, level);
}
