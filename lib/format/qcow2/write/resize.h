/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. The layer is active. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

QimgErrno qcow2_extend_tables(QimgFormat *format, uint64_t size_bytes);
QimgErrno qcow2_resize(QimgFormat *format, uint64_t size_bytes, const QimgTask *task);
QimgErrno qcow2_grow(QimgFormat *format, uint64_t size_bytes);

/* QimgDriver.make_empty. */
QimgErrno qcow2_make_empty(QimgFormat *format, const QimgTask *task) QIMG_MUST_CHECK;
