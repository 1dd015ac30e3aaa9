/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Geometry of a qcow2 image. Spec: qcow2 sections 3, 11 and 12. */
#include "codec/qcow2-geometry.h"

#include "base/checked.h"

Qcow2Geometry
qcow2_geometry_new(uint32_t version, uint32_t cluster_bits, bool extended_l2,
                   bool has_data_file)
{
    Qcow2Geometry g = {
        .version = version,
        .cluster_bits = cluster_bits,
        .cluster_bytes = UINT64_C(1) << cluster_bits,
        .extended_l2 = extended_l2,
        .has_data_file = has_data_file,
    };

    g.l2_entry_words = extended_l2 ? 2 : 1;
    g.l2_bits = cluster_bits - (extended_l2 ? 4 : 3);
    g.l1_shift = g.l2_bits + cluster_bits;
    g.subcluster_bits = cluster_bits - (extended_l2 ? 5 : 0);
    g.compressed_shift = 62 - (cluster_bits - 8);
    return g;
}

QimgRule
qcow2_check_table(uint64_t host_offset, uint64_t n_entries, uint64_t entry_bytes,
                  uint64_t cluster_bytes, uint64_t max_bytes, QimgRule too_large,
                  QimgRule bad_offset)
{
    if (n_entries > max_bytes / entry_bytes)
        return too_large;
    if (!qimg_is_aligned(host_offset, cluster_bytes) ||
        !qimg_range_fits(host_offset, n_entries * entry_bytes, INT64_MAX))
        return bad_offset;
    return QIMG_RULE_OK;
}

uint64_t
qcow2_geometry_l1_entries_for(const Qcow2Geometry *geometry, uint64_t size_bytes)
{
    return qimg_div_round_up(size_bytes, UINT64_C(1) << geometry->l1_shift);
}
