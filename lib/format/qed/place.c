/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Places of entries in tables, and valid offsets in entries. Spec: qed section 2. */
#include "format/qed/place.h"

#include "base/checked.h"

bool
qed_is_place_for_cluster(Qed *qed, uint64_t host_offset)
{
    uint64_t cluster_bytes = qed->base.cluster_bytes;

    return qimg_is_aligned(host_offset, cluster_bytes) &&
           host_offset >= qed_header_end(&qed->header) &&
           host_offset <= INT64_MAX - cluster_bytes &&
           !qimg_format_is_beyond_end(&qed->base, host_offset + cluster_bytes - 1);
}

bool
qed_is_place_for_table(Qed *qed, uint64_t host_offset)
{
    uint64_t table_bytes = qed_table_bytes(&qed->header);

    return qimg_is_aligned(host_offset, qed->base.cluster_bytes) &&
           host_offset >= qed_header_end(&qed->header) &&
           host_offset <= INT64_MAX - table_bytes &&
           !qimg_format_is_beyond_end(&qed->base, host_offset + table_bytes - 1);
}
