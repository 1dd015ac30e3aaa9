/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing many refcounts by what was counted. */
#pragma once

#include "format/qcow2/count/counts.h"

/* Whether each refcount can be changed by its count (@sign 1 or -1): else -ERANGE. Reads
 * only. Threads, other errors: as qcow2_count_references. */
QimgErrno qcow2_refcount_check_counts(Qcow2 *q, const Qcow2Counts *counts, int sign)
    QIMG_MUST_CHECK;

/* Changes each refcount by its count, in the file; not synced. On failure what was
 * changed is changed back, or the image stays dirty. With @freed (QimgClusters, may be
 * NULL) it is kept as it is: the list gets all clusters that became 0, since the
 * allocator finds them free. Threads, errors: as qcow2_refcount_check_counts. */
QimgErrno qcow2_refcount_add_counts(Qcow2 *q, const Qcow2Counts *counts, int sign,
                                    GArray *freed) QIMG_MUST_CHECK;

/* Loads all refcounts as they are stored, those that are larger than a count can be as
 * the largest. As qcow2_count_references. */
QimgErrno qcow2_refcount_load_all(Qcow2 *q, Qcow2Counts *out) QIMG_MUST_CHECK;
