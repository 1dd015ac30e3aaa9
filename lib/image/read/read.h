/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* qimg_image_read for callers inside the gate, without any check. */
QimgErrno image_read_inside(QimgImage *image, uint64_t guest_offset, uint8_t *buffer,
                            size_t length_bytes) QIMG_MUST_CHECK;
