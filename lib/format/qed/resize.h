/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. */
#pragma once

#include "format/qed/qed.h"

QimgErrno qed_extend_tables(QimgFormat *format, uint64_t size_bytes);
QimgErrno qed_grow(QimgFormat *format, uint64_t size_bytes);
QimgErrno qed_resize(QimgFormat *format, uint64_t size_bytes, const QimgTask *task);
