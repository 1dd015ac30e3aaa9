/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The announced range of an allocating plan. */
#include "format/write-plan.h"

void
qimg_plan_announce(QimgFormat *format, const QimgTablePlace *place,
                   QimgWritePlan *plan_out)
{
    uint64_t end = place->cluster_start + place->n_entries * format->cluster_bytes;

    *plan_out = (QimgWritePlan){.kind = QIMG_PLAN_ALLOCATES};
    inflight_begin(format->inflight, &plan_out->inflight, place->cluster_start, &end);
}

QimgErrno
qimg_plan_settle(QimgFormat *format, const QimgTablePlace *place, QimgWritePlan *plan,
                 QimgErrno err)
{
    uint64_t end =
        place->cluster_start + plan->allocation.n_clusters * format->cluster_bytes;

    if (err || plan->length_bytes == 0)
        inflight_end(format->inflight, &plan->inflight);
    else if (end < plan->inflight.end)
        inflight_shorten(format->inflight, &plan->inflight, end);
    return err;
}
