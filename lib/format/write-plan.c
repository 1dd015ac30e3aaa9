/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The order of the steps, and the announced range around the second one. */
#include "format/write-plan.h"

static QimgErrno
plan_allocation(QimgFormat *format, const QimgTablePlace *place, uint64_t guest_offset,
                uint64_t length_bytes, QimgPlanStep allocate, QimgWritePlan *plan)
{
    uint64_t end = place->cluster_start + place->n_entries * format->cluster_bytes;
    QimgErrno err;

    *plan = (QimgWritePlan){.kind = QIMG_PLAN_ALLOCATES};
    inflight_begin(format->inflight, &plan->inflight, place->cluster_start, &end);
    err = allocate(format, place, guest_offset, length_bytes, plan);
    if (err || plan->length_bytes == 0) {
        inflight_end(format->inflight, &plan->inflight);
        return err;
    }
    end = place->cluster_start + plan->n_clusters * format->cluster_bytes;
    if (end < plan->inflight.end)
        inflight_shorten(format->inflight, &plan->inflight, end);
    return 0;
}

QimgErrno
qimg_plan_write_by_steps(QimgFormat *format, const QimgTablePlace *place,
                         uint64_t guest_offset, uint64_t length_bytes,
                         QimgPlanStep in_place, QimgPlanStep allocate,
                         QimgWritePlan *plan_out)
{
    QimgErrno err;

    do {
        *plan_out = (QimgWritePlan){.kind = QIMG_PLAN_IN_PLACE};
        err = in_place(format, place, guest_offset, length_bytes, plan_out);
        if (err || plan_out->length_bytes > 0)
            break;
        err = plan_allocation(format, place, guest_offset, length_bytes, allocate,
                              plan_out);
        /* No error and nothing planned: another writer has allocated it meanwhile. */
    } while (!err && plan_out->length_bytes == 0);
    return err;
}
