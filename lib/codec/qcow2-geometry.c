/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Geometry of a qcow2 image. Spec: qcow2 sections 3, 11 and 12. */
#include "codec/qcow2-geometry.h"

#include <limits.h>

#include "base/checked.h"

Qcow2Geometry
qcow2_geometry_of(const Qcow2Header *header)
{
    Qcow2Geometry g = {
        .version = header->version,
        .cluster_bits = header->cluster_bits,
        .cluster_bytes = UINT64_C(1) << header->cluster_bits,
        .extended_l2 = (header->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2) != 0,
        .has_data_file = (header->incompatible_features & QCOW2_INCOMPAT_DATA_FILE) != 0,
    };

    g.l2_entry_words = g.extended_l2 ? 2 : 1;
    g.l2_bits = g.cluster_bits - (g.extended_l2 ? 4 : 3);
    g.l1_shift = g.l2_bits + g.cluster_bits;
    g.subcluster_bits = g.cluster_bits - (g.extended_l2 ? 5 : 0);
    g.compressed_shift = 62 - (g.cluster_bits - 8);
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

QimgDecode
qcow2_geometry_check_size(const Qcow2Header *header)
{
    Qcow2Geometry geometry = qcow2_geometry_of(header);
    uint64_t n_needed = qcow2_geometry_l1_entries_for(&geometry, header->size_bytes);

    if (header->size_bytes > INT64_MAX || n_needed > INT_MAX)
        return qimg_decode_broken(QIMG_RULE_VIRTUAL_SIZE, header->size_bytes);
    if (header->n_l1_entries < n_needed)
        return qimg_decode_broken(QIMG_RULE_L1_TOO_SMALL, header->n_l1_entries);
    return qimg_decode_ok();
}
