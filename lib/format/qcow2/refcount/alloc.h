/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The allocator and its reserve. All functions, unless they say otherwise: under the
 * allocation lock, which comments call alloc_lock. */
#pragma once

#include "base/lock.h"
#include "format/qcow2/layer/qcow2.h"

/* Creates the state of a layer that may change. Free it after its last use; accepts
 * NULL. */
Qcow2Alloc *qcow2_alloc_new(void);
void qcow2_alloc_free(Qcow2Alloc *alloc);

/* The lock of L1 entries, refcounts and the reserve: rank QIMG_RANK_ALLOC. */
QimgMutex *qcow2_alloc_lock(Qcow2 *q);

/* Precedes every change: see qimg_format_activate. Takes alloc_lock. */
QimgErrno qcow2_begin_change(Qcow2 *q) QIMG_MUST_CHECK;

/* Whether the first change has been prepared. Any thread. */
bool qcow2_has_begun_changes(const Qcow2 *q);

/* Takes 1 to @n_max contiguous free clusters for data or tables (W1). */
QimgErrno qcow2_alloc(Qcow2 *q, uint64_t n_max, QimgClusters *out) QIMG_MUST_CHECK;

/* Takes exactly @n contiguous clusters, as qcow2_alloc. */
QimgErrno qcow2_alloc_exactly(Qcow2 *q, uint64_t n, uint64_t *first_cluster_out)
    QIMG_MUST_CHECK;

/* Returns clusters to which no durable entry ever referred. */
void qcow2_alloc_undo(Qcow2 *q, QimgClusters run);

/* Searches begin at @cluster, which is free now, unless they begin below it. */
void qcow2_alloc_search_from(Qcow2 *q, uint64_t cluster);

/* The size of the next reserve. */
uint64_t qcow2_alloc_next_bytes(const Qcow2 *q);

/* Releases the whole reserve, and truncates the file behind its last used cluster, but
 * not below @min_file_bytes. */
QimgErrno qcow2_alloc_release_reserve(Qcow2 *q, uint64_t min_file_bytes) QIMG_MUST_CHECK;
