/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The refcount table and its blocks. All functions: under alloc_lock. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Reads the refcount table into memory, unchecked. */
QimgErrno qcow2_refcount_read_table(Qcow2 *q) QIMG_MUST_CHECK;

/* Whether @entry of the table is 0 or a valid offset of a block. */
bool qcow2_refcount_is_entry_sound(Qcow2 *q, uint64_t entry);

/* Reads the refcount table into memory, checked. */
QimgErrno qcow2_refcount_load_table(Qcow2 *q) QIMG_MUST_CHECK;

/* The refcount of a cluster; 0 without a block. */
QimgErrno qcow2_refcount_get(Qcow2 *q, uint64_t cluster, uint64_t *refcount_out)
    QIMG_MUST_CHECK;

/* Searches free clusters from @from on: the first run of at most @n_max clusters with
 * refcount 0 that blocks count (missing blocks are created). */
QimgErrno qcow2_refcount_find_free(Qcow2 *q, uint64_t from, uint64_t n_max,
                                   QimgClusters *found_out) QIMG_MUST_CHECK;

/* Adds @delta (1 or -1) to the refcounts of the first *@n_done_out > 0 clusters of @run,
 * in one write; syncs nothing. Appends clusters that became 0 to @freed (QimgClusters),
 * if not NULL. Changes nothing on failure; -ERANGE as below. */
QimgErrno qcow2_refcount_add_some(Qcow2 *q, QimgClusters run, int delta, GArray *freed,
                                  uint64_t *n_done_out) QIMG_MUST_CHECK;

/* Adds @delta (1 or -1) to the refcount of each cluster of @run, in the file; syncs
 * nothing. Not for dropped references: on failure, some refcounts may stay lowered. On
 * failure the changes are undone as far as possible. -ERANGE if a refcount would be less
 * than 0 or too large for its width, or its block is missing. */
QimgErrno qcow2_refcount_add(Qcow2 *q, QimgClusters run, int delta) QIMG_MUST_CHECK;

/* Makes @n contiguous clusters countable, behind all clusters counted so far, and returns
 * the first; their refcounts are 0. */
QimgErrno qcow2_refcount_make_room(Qcow2 *q, uint64_t n, uint64_t *first_cluster_out)
    QIMG_MUST_CHECK;

/* The last cluster below @end_cluster with a refcount; 0 if there is none. */
QimgErrno qcow2_refcount_find_last(Qcow2 *q, uint64_t end_cluster, uint64_t *cluster_out)
    QIMG_MUST_CHECK;
