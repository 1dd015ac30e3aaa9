/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looking up and changing entries. */
#pragma once

#include "format/qed/qed.h"

/* The offset of the L2 table of @l1_index, 0: there is none. */
QimgErrno qed_find_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
    QIMG_MUST_CHECK;

/* The same, made where there is none. Threads: any; no lock may be held. */
QimgErrno qed_ensure_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
    QIMG_MUST_CHECK;

/* A writer's look at an L2 entry: whether it is 0, 1 or a place that data may be written
 * to; else all changes are refused, and the answer is -EIO. */
QimgErrno qed_check_entry(Qed *qed, uint64_t entry) QIMG_MUST_CHECK;
