/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The allocator and its reserve. All functions: under alloc_lock. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Takes 1 to @n_max contiguous free clusters for data or tables (W1). */
QimgErrno qcow2_alloc(Qcow2 *q, uint64_t n_max, QimgClusters *out) QIMG_MUST_CHECK;

/* Takes exactly @n contiguous clusters, as qcow2_alloc. */
QimgErrno qcow2_alloc_exactly(Qcow2 *q, uint64_t n, uint64_t *first_cluster_out)
    QIMG_MUST_CHECK;

/* Returns clusters to which no durable entry ever referred. */
void qcow2_alloc_undo(Qcow2 *q, QimgClusters run);

/* Releases the whole reserve, and truncates the file behind its last used cluster, but
 * not below @min_file_bytes. */
QimgErrno qcow2_alloc_release_reserve(Qcow2 *q, uint64_t min_file_bytes) QIMG_MUST_CHECK;
