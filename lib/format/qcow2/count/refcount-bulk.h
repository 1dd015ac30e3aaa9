/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing many refcounts by their counts. */
#pragma once

#include "format/qcow2/count/counts.h"

/* Whether each refcount can be changed by its count (@sign 1 or -1): else -ERANGE. Reads
 * only. Threads, other errors: as qcow2_count_references. */
QimgErrno qcow2_refcount_check_counts(Qcow2 *q, const Qcow2Counts *counts, int sign)
    QIMG_MUST_CHECK;

/* Changes each refcount by its count, in the file; not synced. On failure the changes are
 * undone, or the image stays dirty. With @freed (QimgClusters, may be NULL) they stay:
 * the list gets all clusters that became 0, since the allocator finds them free. Threads,
 * errors: as qcow2_refcount_check_counts. */
QimgErrno qcow2_refcount_add_counts(Qcow2 *q, const Qcow2Counts *counts, int sign,
                                    GArray *freed) QIMG_MUST_CHECK;

/* Loads all stored refcounts; larger ones are limited to the maximum of a count. As
 * qcow2_count_references. */
QimgErrno qcow2_refcount_load_all(Qcow2 *q, Qcow2Counts *out) QIMG_MUST_CHECK;
