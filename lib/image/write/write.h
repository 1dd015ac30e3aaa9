/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* Writes @buffer, for a caller inside the gate or with the gate closed. */
QimgErrno image_write_inside(QimgImage *image, uint64_t guest_offset,
                             const uint8_t *buffer, uint64_t length_bytes)
    QIMG_MUST_CHECK;

/* Allocates the unallocated parts of the range without changing content; @reserves: and
 * reserves space in the host's file. As image_write_inside. */
QimgErrno image_allocate_inside(QimgImage *image, uint64_t guest_offset,
                                uint64_t length_bytes, bool reserves) QIMG_MUST_CHECK;

/* Counts a failure, and does the pending work of a completed change. Outside the gate. */
void image_after_change(QimgChain *chain, QimgErrno err);

/* Records that a request changes a range of the disk: as QimgDriver.before_change. */
QimgErrno image_before_change(QimgChain *chain, uint64_t guest_offset,
                              uint64_t length_bytes, bool may_exceed) QIMG_MUST_CHECK;

/* Makes room for the records of image_before_change. Outside the gate. */
void image_make_room(QimgChain *chain);
