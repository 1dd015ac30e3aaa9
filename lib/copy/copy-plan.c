/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pieces of a disk for a copy. A chunk with any data is read whole: its zeros are
 * found faster in memory than in the tables. */
#include "copy/copy-plan.h"

#include <errno.h>

#include "base/checked.h"

/* Finds the end of the hole at next_offset, which is mostly the start of a chunk. */
static void
plan_find_data(CopyPlan *plan)
{
    uint64_t found = plan->next_offset;
    QimgErrno err = plan->find_data(plan->user, plan->next_offset, &found);

    if (err == -ENXIO)
        plan->data_offset = plan->size_bytes;
    else if (err)
        plan->data_offset = plan->next_offset;
    else
        plan->data_offset =
            qimg_max_u64(qimg_align_down(found, plan->chunk_bytes), plan->next_offset);
}

bool
copy_plan_next(CopyPlan *plan, CopyPiece *out)
{
    uint64_t start = plan->next_offset;
    uint64_t end;

    if (start >= plan->size_bytes)
        return false;
    if (plan->data_offset <= start)
        plan_find_data(plan);
    out->is_hole = plan->data_offset > start;
    if (out->is_hole)
        end = start + qimg_min_u64(plan->data_offset - start, plan->max_hole_bytes);
    else if (!qimg_add_u64(qimg_align_down(start, plan->chunk_bytes), plan->chunk_bytes,
                           &end))
        end = plan->size_bytes;
    end = qimg_min_u64(end, plan->size_bytes);
    out->guest_offset = start;
    out->length_bytes = end - start;
    plan->next_offset = end;
    return true;
}
