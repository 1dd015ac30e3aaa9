/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"
#include "image/map/layers.h"

/* The run of @image at @view_offset (in the view: with base_bytes added). The run is cut
 * to the layers' sizes; @length_bytes > 0 is the length that the caller can use. Threads:
 * any; no lock; waits for I/O on misses. */
QimgErrno image_map_run(const QimgImage *image, uint64_t view_offset,
                        uint64_t length_bytes, ImageRun *out) QIMG_MUST_CHECK;

/* Whether everything below the top layer reads as zeros in the range, as far as the
 * tables tell. Inside the gate. */
QimgErrno image_is_zero_below(QimgChain *chain, uint64_t guest_offset,
                              uint64_t length_bytes, bool *is_zero_out) QIMG_MUST_CHECK;
