/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The clusters of a replaced L2 entry. */

#include "format/qcow2/write/old-entry.h"

#include "base/checked.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/pending.h"

/* The clusters of the image file that a valid entry refers to, perhaps none. */
static QimgClusters
clusters_of_entry(const Qcow2 *q, uint64_t l2_entry)
{
    const Qcow2Geometry *g = &q->geometry;
    uint64_t host_offset = l2_entry & QCOW2_OFFSET_MASK;

    if (l2_entry & QCOW2_L2_COMPRESSED) {
        QimgL2Entry e = qcow2_l2_decode_compressed(g, l2_entry);
        uint64_t first, end;

        if (e.kind != QIMG_L2_STREAM)
            return (QimgClusters){0};
        /* The sectors that the entry names, not the bytes. Spec: qcow2 section 5. */
        first = qimg_align_down(e.host_offset, QIMG_SECTOR_BYTES) >> g->cluster_bits;
        end = ((e.host_offset + e.stream_bytes - 1) >> g->cluster_bits) + 1;
        return (QimgClusters){first, end - first};
    }
    if (host_offset && !g->has_data_file)
        return (QimgClusters){host_offset >> g->cluster_bits, 1};
    return (QimgClusters){0};
}

void
qcow2_free_entry_later(Qcow2 *q, uint64_t l2_entry)
{
    QimgClusters run = clusters_of_entry(q, l2_entry);

    if (run.n_clusters > 0)
        qcow2_free_later(q, run);
}

QimgErrno
qcow2_check_entry(Qcow2 *q, uint64_t word, uint64_t bitmap, uint64_t guest_offset)
{
    QimgRule rule = qcow2_l2_check_for_change(&q->geometry, word, bitmap, guest_offset);
    QimgClusters run = {0};

    if (!rule)
        run = clusters_of_entry(q, word);
    if (run.n_clusters > 0 && qimg_format_touches_metadata(
                                  &q->base, run.first_cluster << q->geometry.cluster_bits,
                                  run.n_clusters << q->geometry.cluster_bits))
        rule = QIMG_RULE_WRITE_ON_METADATA;
    return rule ? qcow2_mark_corrupt(q, rule, word & QCOW2_OFFSET_MASK) : 0;
}
