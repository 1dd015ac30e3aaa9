/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* Grows the disk to at least @min_size_bytes: during other requests if the added range is
 * known to be zeros already, else with the gate closed. Outside the gate. Errors: of
 * QimgDriver.resize; -EIO if another program has changed the image. */
QimgErrno image_grow(QimgImage *image, uint64_t min_size_bytes) QIMG_MUST_CHECK;
