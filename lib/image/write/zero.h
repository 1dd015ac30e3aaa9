/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* Writes zeros as data to [@start, @end), unless the disk holds them already. May pass
 * the disk's end. As image_write_inside. */
QimgErrno image_write_zeros(QimgImage *image, uint64_t start, uint64_t end)
    QIMG_MUST_CHECK;

/* Makes [@start, @end) read as zeros, multiples of the top layer's zero unit except at
 * the disk's end. As image_write_inside. */
QimgErrno image_zero_units(QimgImage *image, uint64_t start, uint64_t end,
                           QimgZeroMode mode) QIMG_MUST_CHECK;
