/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* COPIED flags: what they must be, and correcting them. */
#pragma once

#include "format/qcow2/count/counts.h"

/* The entry of an active L1 table, the first word of one of an L2 table, with the COPIED
 * flag that the refcounts in @counts ask for. What refers to no cluster of the file is
 * given back as it is. */
uint64_t qcow2_right_l1_entry(const Qcow2 *q, const Qcow2Counts *counts, uint64_t entry);
uint64_t qcow2_right_l2_word(const Qcow2 *q, const Qcow2Counts *counts, uint64_t word);

/* Corrects the flags of the active tables; where @mends_entries, zero clusters of all
 * tables lose an unaligned offset. Adds to *@n_corrected. Threads, errors: as
 * qcow2_count_references. */
QimgErrno qcow2_repair_flags(Qcow2 *q, const Qcow2Counts *counts, bool mends_entries,
                             uint64_t *n_corrected) QIMG_MUST_CHECK;

/* Makes the COPIED flags of the tables of @view what @counts says (NULL: all is shared),
 * in the file and the cached slices; not synced. Those in the L1 table of a snapshot mean
 * nothing and stay. Threads, errors: as qcow2_count_references. */
QimgErrno qcow2_correct_copied_flags(Qcow2 *q, const QimgView *view,
                                     const Qcow2Counts *counts) QIMG_MUST_CHECK;
