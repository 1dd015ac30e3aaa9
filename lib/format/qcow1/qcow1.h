/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private state of an open layer of qcow version 1, which is read and never written.
 *
 * I1  Nothing changes after open but file_end_bytes: maps and reads from any number of
 * threads need no lock. I2  Tables may lie at any multiple of 8 (the L1 table usually
 * follows the header), so slices of the table cache are windows of the file: at multiples
 * of their size, whatever table or tables lie there. Each entry is decoded each time it
 * is used. I3  What lies beyond the end of the file is damage, not zeros (QEMU reads
 * zeros there). The last cluster may be cut. */
#pragma once

#include "codec/qcow1-header.h"
#include "format/table-file.h"

typedef struct {
    QimgFormat base;
    Qcow1Header header; /* const after open */
} Qcow1;

/* map.c: QimgDriver.map. */
QimgErrno qcow1_map(QimgFormat *format, const QimgView *view,
                    QimgGuestOffset guest_offset, uint64_t length_bytes,
                    QimgRun *run_out);
