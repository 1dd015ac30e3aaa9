/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The range of an external data file that growing the disk has zeroed, durably; it may
 * reach behind the disk's end, and no part of it without an entry was written since. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Creates the empty range of a writable layer. Free it after its last use; accepts
 * NULL. */
Qcow2DataZeros *qcow2_data_zeros_new(void);
void qcow2_data_zeros_free(Qcow2DataZeros *zeros);

/* Whether @guest_offset lies inside. Threads: any, inside the gate. */
bool qcow2_data_zeros_has(const Qcow2 *q, uint64_t guest_offset);

/* The end of the range that growing the disk has zeroed, in bytes; 0: none. Threads: any,
 * inside the gate or while it is closed. */
uint64_t qcow2_data_zeros_end(const Qcow2 *q);

/* Adds [@start_bytes, @end_bytes). With the gate closed. */
void qcow2_data_zeros_add(Qcow2 *q, uint64_t start_bytes, uint64_t end_bytes);

/* Makes the range empty, except its end. Any thread. */
void qcow2_data_zeros_forget(Qcow2 *q);

/* Makes the range empty. With the gate closed. */
void qcow2_data_zeros_clear(Qcow2 *q);
