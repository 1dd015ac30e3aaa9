/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. */
#pragma once

#include "format/qed/qed.h"
#include "format/write-plan.h"

QimgErrno qed_zero(QimgFormat *format, QimgGuestOffset guest_offset,
                   uint64_t length_bytes, QimgZeroMode mode, bool below_is_zero,
                   uint64_t *done_out);
