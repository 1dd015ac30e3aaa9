/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* COPIED flags: their correct values, and their correction. */
#pragma once

#include "format/qcow2/count/counts.h"

/* The entry of an active L1 table, or the first word of one of an L2 table, with the
 * COPIED flag that the refcounts in @counts require. An entry without a cluster of the
 * file is returned unchanged. */
uint64_t qcow2_right_l1_entry(const Qcow2 *q, const Qcow2Counts *counts, uint64_t entry);
uint64_t qcow2_right_l2_word(const Qcow2 *q, const Qcow2Counts *counts, uint64_t word);

/* Corrects the flags of the active tables; with @mends_entries, removes unaligned offsets
 * of zero clusters from all tables. Adds to *@n_corrected. Threads, errors: as
 * qcow2_count_references. */
QimgErrno qcow2_repair_flags(Qcow2 *q, const Qcow2Counts *counts, bool mends_entries,
                             uint64_t *n_corrected) QIMG_MUST_CHECK;

/* Sets the COPIED flags of the tables of @view according to @counts (NULL: all is
 * shared), in the file and the cached slices; not synced. Flags in the L1 table of a
 * snapshot are ignored and stay. Threads, errors: as qcow2_count_references. */
QimgErrno qcow2_correct_copied_flags(Qcow2 *q, const QimgView *view,
                                     const Qcow2Counts *counts) QIMG_MUST_CHECK;
