/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qed/qed.h"
#include "format/run.h"

/* QimgDriver.map. */
QimgErrno qed_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
                  uint64_t length_bytes, QimgRun *run_out);

/* QimgDriver.will_map. */
void qed_will_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
                  TableKind level);
