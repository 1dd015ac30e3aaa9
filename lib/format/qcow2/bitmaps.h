/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.list_bitmaps. */
QimgErrno qcow2_list_bitmaps(QimgFormat *format, uint64_t *position,
                             GArray **bitmaps_out);
