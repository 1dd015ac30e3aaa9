/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. The layer is active. */
#pragma once

#include "format/qcow2/layer/qcow2.h"
#include "format/write-plan.h"

QimgErrno qcow2_zero(QimgFormat *format, QimgGuestOffset guest_offset,
                     uint64_t length_bytes, QimgZeroMode mode, bool below_is_zero,
                     uint64_t *done_out);
