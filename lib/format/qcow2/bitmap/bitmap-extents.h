/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/bitmaps.h"
#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.map_bitmap. */
QimgErrno qcow2_map_bitmap(QimgFormat *format, QimgBitmapCursor *cursor,
                           uint64_t guest_offset, bool *is_set_out,
                           uint64_t *length_bytes_out);

/* The first bit in [@first, @end) of @bytes that is not @value; @end: none. Pure. */
uint64_t qcow2_bits_find_other(const uint8_t *bytes, uint64_t first, uint64_t end,
                               bool value);
