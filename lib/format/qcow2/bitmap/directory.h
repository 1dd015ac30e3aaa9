/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The directory of bitmaps: read, and judged. Spec: bitmaps sections 2, 3 and 7. */
#pragma once

#include "format/bitmaps.h"
#include "format/qcow2/layer/qcow2.h"

/* Reads all of it: the list, and the bytes as they are in the file (free with g_free;
 * NULL where they could not be read or there are none). What is wrong is said in the
 * list. Errors: of the storage, -ENOMEM. */
QimgErrno qcow2_read_bitmap_directory(Qcow2 *q, QimgBitmaps **list_out,
                                      uint8_t **bytes_out) QIMG_MUST_CHECK;

/* Whether the image's bitmaps mean something: their extension is there, and the bit that
 * says so. */
bool qcow2_bitmaps_are_valid(const Qcow2 *q);

/* Writes the flags of an entry of the directory, in place; nothing is synced. */
QimgErrno qcow2_write_bitmap_flags(Qcow2 *q, const QimgFormatBitmap *b, uint32_t flags)
    QIMG_MUST_CHECK;
