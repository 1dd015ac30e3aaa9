/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/bitmap/tracker.h"

/* QimgDriver.before_change. */
QimgErrno qcow2_before_change(QimgFormat *format, uint64_t guest_offset,
                              uint64_t length_bytes, bool may_exceed);

/* Sets IN_USE, durably, unless that is done: for all enabled bitmaps and, with
 * @with_disabled, for the valid disabled ones, too. Threads: any, inside the gate or
 * while it is closed. Errors: as plan_write. */
QimgErrno qcow2_bitmaps_begin(Qcow2Tracker *t, bool with_disabled) QIMG_MUST_CHECK;
