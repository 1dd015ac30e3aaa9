/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.list_bitmaps. */
QimgErrno qcow2_list_bitmaps(QimgFormat *format, uint64_t *position,
                             GArray **bitmaps_out);
