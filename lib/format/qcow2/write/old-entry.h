/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* L2 entries that are going to be replaced. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* As qcow2_free_later of what a standard or compressed L2 entry refers to. */
void qcow2_free_entry_later(Qcow2 *q, uint64_t l2_entry);

/* Checks an L2 entry (@bitmap of extended ones, else 0) for the cluster at @guest_offset
 * that is going to be changed: it must be understood, and refer to no table. Else the
 * image is marked corrupt, and the answer is -EIO. */
QimgErrno qcow2_check_entry(Qcow2 *q, uint64_t word, uint64_t bitmap,
                            uint64_t guest_offset) QIMG_MUST_CHECK;
