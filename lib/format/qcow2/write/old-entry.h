/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* L2 entries to be replaced. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Like qcow2_free_later, for the clusters of a standard or compressed L2 entry. */
void qcow2_free_entry_later(Qcow2 *q, uint64_t l2_entry);

/* Checks an L2 entry (@bitmap of extended ones, else 0) for the cluster at @guest_offset
 * before it is changed: it must be valid, and refer to no table. Otherwise marks the
 * image corrupt, and returns -EIO. */
QimgErrno qcow2_check_entry(Qcow2 *q, uint64_t word, uint64_t bitmap,
                            uint64_t guest_offset) QIMG_MUST_CHECK;
