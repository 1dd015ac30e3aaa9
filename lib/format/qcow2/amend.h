/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "base/task.h"
#include "format/header-change.h"
#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.change_header. */
bool qcow2_change_header(QimgFormat *format, const QimgHeaderChange *change,
                         const QimgTask *task, GError **error);
