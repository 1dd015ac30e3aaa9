/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The directory of bitmaps: read, and judged. Spec: bitmaps sections 2, 3 and 7. */
#pragma once

#include "format/bitmaps.h"
#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.load_bitmaps. */
QimgErrno qcow2_load_bitmaps(QimgFormat *format, QimgBitmaps **list_out);

/* As it, and gives the directory's bytes as they are in the file in *@bytes_out (free
 * with g_free), NULL where they could not be read or there are none. */
QimgErrno qcow2_read_bitmap_directory(Qcow2 *q, QimgBitmaps **list_out,
                                      uint8_t **bytes_out) QIMG_MUST_CHECK;

/* Whether the image's bitmaps mean something: their extension is there, and the bit that
 * says so. */
bool qcow2_bitmaps_are_valid(const Qcow2 *q);
