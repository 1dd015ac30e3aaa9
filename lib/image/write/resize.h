/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* Grows the disk to at least @min_size_bytes. Outside the gate. */
QimgErrno image_grow(QimgImage *image, uint64_t min_size_bytes) QIMG_MUST_CHECK;
