/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The reserve; all under alloc_lock. */
#pragma once

#include "format/qed/qed.h"

/* Takes 1 to @n_max contiguous clusters (E1, E2). */
QimgErrno qed_alloc(Qed *qed, uint64_t n_max, QimgClusters *out) QIMG_MUST_CHECK;

/* Takes exactly @n contiguous clusters, as qed_alloc. */
QimgErrno qed_alloc_exactly(Qed *qed, uint64_t n, uint64_t *first_cluster_out)
    QIMG_MUST_CHECK;

/* Returns clusters to which no entry in the file refers, durably. */
void qed_alloc_undo(Qed *qed, QimgClusters run);

/* Truncates the file at @end_bytes; from then on higher offsets are beyond its end. */
QimgErrno qed_cut_file(Qed *qed, uint64_t end_bytes) QIMG_MUST_CHECK;

/* Truncates the file behind the last cluster that was taken. */
QimgErrno qed_alloc_release_reserve(Qed *qed) QIMG_MUST_CHECK;
