/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Replaces the directory of bitmaps by a new one, with one write of the header. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Writes a directory of @n_bitmaps > 0 in @n_bytes to new clusters, durably. Under
 * alloc_lock. */
QimgErrno qcow2_write_bitmap_directory(Qcow2 *q, const uint8_t *bytes, uint64_t n_bytes,
                                       uint64_t *host_offset_out) QIMG_MUST_CHECK;

/* Makes the header's extension name the directory @to, durably; the old directory's
 * clusters are freed after the next flush. An extension is added if there is none, and
 * removed if @to has no bitmaps. Under alloc_lock. A crash leaves the old one or the new
 * one; if the extension crosses a sector boundary, it may leave all bitmaps stale.
 * Errors: also -EFBIG if the header has no room for an extension. */
QimgErrno qcow2_switch_bitmap_directory(Qcow2 *q, const Qcow2BitmapsExtension *to)
    QIMG_MUST_CHECK;
