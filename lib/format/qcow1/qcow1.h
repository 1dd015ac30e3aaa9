/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private state of an open layer of qcow version 1, which is read and never written.
 *
 * I1  Only file_end_bytes changes after open: maps and reads from any number of threads
 *     need no lock.
 *
 * I2  Tables may lie at any multiple of 8 (the L1 table usually follows the header), so
 *     slices of the table cache are windows of the file: at multiples of their size, with
 *     any part of any tables. Each entry is decoded on each use.
 *
 * I3  Offsets beyond the end of the file are damage, not zeros (QEMU reads zeros there).
 *     The last cluster may be truncated. */
#pragma once

#include "codec/qcow1-header.h"
#include "format/table-file.h"

typedef struct {
    QimgFormat base;
    Qcow1Header header; /* const after open */
} Qcow1;
