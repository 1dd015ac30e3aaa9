/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* qimg_image_read for who is inside the gate, without any check. */
QimgErrno image_read_inside(QimgImage *image, uint64_t guest_offset, uint8_t *buffer,
                            size_t length_bytes) QIMG_MUST_CHECK;

/* As qimg_image_read for one of many threads that go through an image that
 * nobody changes: all is done in this thread, and inflated clusters are not kept. The
 * caller has checked the range, and that the layers' data can be read. */
QimgErrno image_read_bulk(QimgImage *image, uint64_t guest_offset, uint8_t *buffer,
                          size_t length_bytes) QIMG_MUST_CHECK;
