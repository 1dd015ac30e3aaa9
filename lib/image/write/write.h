/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* Writes @buffer for who is inside the gate or has closed it. */
QimgErrno image_write_inside(QimgImage *image, uint64_t guest_offset,
                             const uint8_t *buffer, uint64_t length_bytes)
    QIMG_MUST_CHECK;

/* Allocates what is not allocated of the range without a change of
 * content;
 * @reserves: and makes room in the host's file. As image_write_inside. */
QimgErrno image_allocate_inside(QimgImage *image, uint64_t guest_offset,
                                uint64_t length_bytes, bool reserves) QIMG_MUST_CHECK;

/* Counts a failure, and does what a change has left to be done once it is
 * over. Outside the gate. */
void image_after_change(QimgChain *chain, QimgErrno err);
