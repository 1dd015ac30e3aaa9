/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.map. */
QimgErrno qcow2_map(QimgFormat *format, const QimgView *view,
                    QimgGuestOffset guest_offset, uint64_t length_bytes,
                    QimgRun *run_out);
