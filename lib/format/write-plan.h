/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The method of writing a piece: the answer of QimgDriver.plan_write. */
#pragma once

#include "format/format.h"
#include "format/inflight.h"
#include "format/run.h"
#include "format/table-place.h"

typedef enum {
    QIMG_PLAN_IN_PLACE,      /* the host bytes are the request's: only write them */
    QIMG_PLAN_IN_PLACE_HELD, /* the same; abandon ends the plan once they are written:
                                until then no discard zeroes them */
    QIMG_PLAN_ALLOCATES,     /* fill, then publish or abandon */
} QimgPlanKind;

/* A write into clusters, or parts of them, that are not the disk's yet. Until the plan is
 * published or abandoned, no other request changes [fill_start, fill_end) of the disk.
 *
 *     plan_write ──▶ fill ──▶ publish
 *                      └─(any failure)─▶ abandon
 *
 * To fill, the caller writes all of [fill_start, fill_end) to the data storage, and sets
 * data_first; or only the request, if is_zeroed and the disk held zeros there. */
typedef struct {
    /* The guest bytes that publishing makes valid; the request lies inside. Guest offset
     * G lies at host_offset + (G - request). */
    uint64_t fill_start;
    uint64_t fill_end;
    /* The host bytes read as zeros already, durably: if the disk holds zeros, too, only
     * the request needs to be written. */
    bool is_zeroed;
    QimgRunKind old_kind; /* of the top layer at [fill_start, fill_end): UNALLOCATED or
                             ZERO if all of it is, DATA if it may hold anything */
    /* If clusters_end is not 0: these guest bytes are all of old_kind and is_zeroed; a
     * caller that finds zeros on the disk in all of them sets all_is_zero before
     * publishing, and all of them become allocated. */
    uint64_t clusters_start;
    uint64_t clusters_end;
    /* Set by the caller, before publishing. */
    bool all_is_zero;
    bool data_first; /* the data must be durable before the entries */
    /* The driver's own: the place of the entries, and the clusters that they will name.
     */
    uint64_t l2_table_offset;
    uint64_t l2_index;
    uint64_t n_clusters;
    uint64_t host_cluster_offset;
    bool is_new_cluster; /* taken from the reserve */
} QimgAllocation;

typedef struct {
    QimgPlanKind kind;
    uint64_t length_bytes;      /* > 0: the planned part of the request */
    QimgHostOffset host_offset; /* of the request's first byte, in the data storage */
    QimgInflight inflight;      /* the announced range; not for IN_PLACE */
    QimgAllocation allocation;  /* for ALLOCATES only */
} QimgWritePlan;

typedef enum {
    QIMG_ZERO_UNMAP, /* free the space */
    QIMG_ZERO_KEEP,  /* keep allocated clusters, for later writes */
} QimgZeroMode;

/* Begins an allocating plan: announces the entries at @place, so that they do not change
 * until the plan ends. Waits for other writers of the same clusters; the range may end
 * before @place does. */
void qimg_plan_announce(QimgFormat *format, const QimgTablePlace *place,
                        QimgWritePlan *plan_out);

/* The last step of planning, with @err of the one before: shortens the range to the
 * plan's need, or ends it if nothing was planned. Returns @err. */
QimgErrno qimg_plan_settle(QimgFormat *format, const QimgTablePlace *place,
                           QimgWritePlan *plan, QimgErrno err) QIMG_MUST_CHECK;
