/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The result of a count. */

#include "format/qcow2/count/counts.h"

#include "base/checked.h"
#include "codec/qcow2-tables.h"

bool
qcow2_is_unaligned_zero(const Qcow2Geometry *g, uint64_t word, uint64_t bitmap)
{
    bool reads_as_zeros = g->extended_l2
                              ? !(word & QCOW2_L2_ZERO) && (uint32_t)bitmap == 0
                              : g->version >= 3 && (word & QCOW2_L2_ZERO);

    return reads_as_zeros && !(word & (QCOW2_L2_COMPRESSED | QCOW2_L2_RESERVED)) &&
           !qimg_is_aligned(word & QCOW2_OFFSET_MASK, g->cluster_bytes);
}

void
qcow2_counts_clear(Qcow2Counts *counts)
{
    g_free(counts->words);
    g_clear_pointer(&counts->problems, g_array_unref);
}
