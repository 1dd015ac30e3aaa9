/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.read_compressed. */
QimgErrno qcow2_read_compressed(QimgFormat *format, QimgHostOffset host_offset,
                                uint32_t stream_bytes, uint8_t *cluster_out);
