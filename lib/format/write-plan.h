/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a piece of a write is done: the answer of QimgDriver.plan_write. And planning for
 * all formats with tables: in place where the entries allow that, else by announcing the
 * range (format/inflight.h) and allocating. */
#pragma once

#include "format/format.h"
#include "format/inflight.h"
#include "format/run.h"
#include "format/table-place.h"

typedef enum {
    QIMG_PLAN_IN_PLACE,  /* the host bytes are the request's: just write them */
    QIMG_PLAN_ALLOCATES, /* fill, then publish or abandon */
} QimgPlanKind;

/* How a piece of a write is done. Between plan_write and publish (or abandon) of an
 * allocating plan, nobody else changes what lies at [fill_start, fill_end) of the disk.
 *
 *     plan_write ──▶ fill ──▶ publish
 *                      └─(any failure)─▶ abandon
 *
 * To fill, the caller writes all of [fill_start, fill_end) to the data storage, and sets
 * data_first; or the request alone, where is_zeroed and the disk held zeros there.
 *
 * A plan in place whose is_announced is set is ended by abandon, once its data is
 * written: until then nobody lets its bytes read as zeros.
 */
typedef struct {
    QimgPlanKind kind;
    uint64_t length_bytes;      /* > 0: how much of the request is planned */
    QimgHostOffset host_offset; /* of the request's first byte, in the data storage */
    bool is_announced;          /* IN_PLACE: abandon ends it */
    /* The rest for ALLOCATES only. The guest bytes that become valid by publishing; the
     * request lies inside. Guest offset G lies at host_offset + (G - request). */
    uint64_t fill_start;
    uint64_t fill_end;
    /* The host bytes read as zeros already, durably: where the disk holds zeros, too,
     * nothing but the request needs to be written. */
    bool is_zeroed;
    QimgRunKind old_kind; /* of the top layer at [fill_start, fill_end): UNALLOCATED or
                             ZERO where all of it is, DATA where it may hold anything */
    /* Where clusters_end is not 0: these guest bytes are all of old_kind and is_zeroed;
     * who finds that the disk holds zeros in all of them says so in all_is_zero before
     * publishing, and all of them become allocated. */
    uint64_t clusters_start;
    uint64_t clusters_end;
    bool all_is_zero;
    /* Of the caller, before publishing: the data must be durable before the entries. */
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
    QIMG_ZERO_UNMAP, /* give space back */
    QIMG_ZERO_KEEP,  /* keep what is allocated, for writes to come */
} QimgZeroMode;

/* One step: plans as much of the request, which lies at @place, as one slice allows.
 * @plan has its kind alone, and the range if that is announced; its length_bytes stays 0
 * where the other step is the one to take. Errors: as QimgDriver.plan_write. */
typedef QimgErrno (*QimgPlanStep)(QimgFormat *format, const QimgTablePlace *place,
                                  uint64_t guest_offset, uint64_t length_bytes,
                                  QimgWritePlan *plan);

/* QimgDriver.plan_write by steps, of an active layer. @in_place runs first; then, with
 * the entries at @place announced, @allocate, which sets n_clusters, too: the range is
 * shortened to them. */
QimgErrno qimg_plan_write_by_steps(QimgFormat *format, const QimgTablePlace *place,
                                   uint64_t guest_offset, uint64_t length_bytes,
                                   QimgPlanStep in_place, QimgPlanStep allocate,
                                   QimgWritePlan *plan_out) QIMG_MUST_CHECK;
