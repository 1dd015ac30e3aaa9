/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/bitmaps.h"
#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.load_bitmaps. */
QimgErrno qcow2_load_bitmaps(QimgFormat *format, QimgBitmaps **list_out);

/* QimgDriver.map_bitmap. */
QimgErrno qcow2_map_bitmap(QimgFormat *format, QimgBitmapCursor *cursor,
                           uint64_t guest_offset, bool *is_set_out,
                           uint64_t *length_bytes_out);
