/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. The layer is active. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

QimgErrno qcow2_create_snapshot(QimgFormat *format, const QimgNewSnapshot *snapshot,
                                const QimgTask *task);
QimgErrno qcow2_delete_snapshot(QimgFormat *format, unsigned place, const QimgTask *task);
QimgErrno qcow2_rename_snapshot(QimgFormat *format, unsigned place, const char *name);
QimgErrno qcow2_revert_to_snapshot(QimgFormat *format, unsigned place,
                                   const QimgTask *task);
