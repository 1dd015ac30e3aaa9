/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The method of writing a piece: the answer of QimgDriver.plan_write. And planning for
 * all formats with tables: in place if the entries allow it, else by announcing the range
 * (format/inflight.h) and allocating. */
#pragma once

#include "format/format.h"
#include "format/inflight.h"
#include "format/run.h"
#include "format/table-place.h"

typedef enum {
    QIMG_PLAN_IN_PLACE,  /* the host bytes are the request's: only write them */
    QIMG_PLAN_ALLOCATES, /* fill, then publish or abandon */
} QimgPlanKind;

/* The method of writing a piece. Between plan_write and publish (or abandon) of an
 * allocating plan, no other request changes [fill_start, fill_end) of the disk.
 *
 *     plan_write ──▶ fill ──▶ publish
 *                      └─(any failure)─▶ abandon
 *
 * To fill, the caller writes all of [fill_start, fill_end) to the data storage, and sets
 * data_first; or only the request, if is_zeroed and the disk held zeros there.
 *
 * A plan in place with is_announced is ended by abandon, once its data is written: until
 * then no discard zeroes its bytes. */
typedef struct {
    QimgPlanKind kind;
    uint64_t length_bytes;      /* > 0: the planned part of the request */
    QimgHostOffset host_offset; /* of the request's first byte, in the data storage */
    bool is_announced;          /* IN_PLACE: abandon ends it */
    /* The rest for ALLOCATES only. The guest bytes that publishing makes valid; the
     * request lies inside. Guest offset G lies at host_offset + (G - request). */
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
    bool all_is_zero;
    /* Set by the caller, before publishing: the data must be durable before the
     * entries. */
    bool data_first;
    QimgInflight inflight;
    /* The driver's own. */
    uint64_t l2_table_offset;
    uint64_t l2_index;
    uint64_t n_clusters;
    uint64_t host_cluster_offset;
    bool is_new_cluster;
} QimgWritePlan;

typedef enum {
    QIMG_ZERO_UNMAP, /* free the space */
    QIMG_ZERO_KEEP,  /* keep allocated clusters, for later writes */
} QimgZeroMode;

/* One step: plans as much of the request, which lies at @place, as one slice allows. Of
 * @plan, only its kind is set, and the range if that is announced; its length_bytes stays
 * 0 if the other step must be taken. Errors: as QimgDriver.plan_write. */
typedef QimgErrno (*QimgPlanStep)(QimgFormat *format, const QimgTablePlace *place,
                                  uint64_t guest_offset, uint64_t length_bytes,
                                  QimgWritePlan *plan);

/* QimgDriver.plan_write by steps, of an active layer. Runs @in_place first; then, with
 * the entries at @place announced, @allocate, which sets n_clusters, too: the range is
 * shortened to them. */
QimgErrno qimg_plan_write_by_steps(QimgFormat *format, const QimgTablePlace *place,
                                   uint64_t guest_offset, uint64_t length_bytes,
                                   QimgPlanStep in_place, QimgPlanStep allocate,
                                   QimgWritePlan *plan_out) QIMG_MUST_CHECK;
