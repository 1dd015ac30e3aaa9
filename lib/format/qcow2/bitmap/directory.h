/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The directory of bitmaps: reading and checking. Spec: bitmaps sections 2, 3 and 7. */
#pragma once

#include "format/bitmaps.h"
#include "format/qcow2/layer/qcow2.h"

/* Reads the whole directory: the list, and the bytes as in the file (free with g_free;
 * NULL if they could not be read or there are none). The list has the problems. Errors:
 * of the storage, -ENOMEM. */
QimgErrno qcow2_read_bitmap_directory(Qcow2 *q, QimgBitmaps **list_out,
                                      uint8_t **bytes_out) QIMG_MUST_CHECK;

/* Whether the image's bitmaps are valid: it has their extension, and the autoclear bit is
 * set. */
bool qcow2_bitmaps_are_valid(const Qcow2 *q);

/* Writes the flags of an entry of the directory, in place; syncs nothing. */
QimgErrno qcow2_write_bitmap_flags(Qcow2 *q, const QimgFormatBitmap *b, uint32_t flags)
    QIMG_MUST_CHECK;
