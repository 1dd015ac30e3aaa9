/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* qimg_image_read for callers inside the gate, without any check. */
QimgErrno image_read_inside(QimgImage *image, uint64_t guest_offset, uint8_t *buffer,
                            size_t length_bytes) QIMG_MUST_CHECK;

/* Like qimg_image_read, for one of many threads that scan an image which does not change:
 * this thread does all the work and keeps no inflated clusters. The caller has checked
 * the range, and that the layers' data can be read. */
QimgErrno image_read_bulk(QimgImage *image, uint64_t guest_offset, uint8_t *buffer,
                          size_t length_bytes) QIMG_MUST_CHECK;
