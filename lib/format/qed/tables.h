/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Look-up and changes of entries. */
#pragma once

#include "format/qed/qed.h"

/* The offset of the L2 table of @l1_index, 0: there is none. */
QimgErrno qed_find_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
    QIMG_MUST_CHECK;

/* The same, but creates a missing table. Threads: any; no lock may be held. */
QimgErrno qed_ensure_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
    QIMG_MUST_CHECK;

/* Checks an L2 entry for a writer: it must be 0, 1 or an offset where data may be
 * written; otherwise refuses all changes, and returns -EIO. */
QimgErrno qed_check_entry(Qed *qed, uint64_t entry) QIMG_MUST_CHECK;
