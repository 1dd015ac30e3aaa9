/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. The layer is active. */
#pragma once

#include "format/qcow2/layer/qcow2.h"
#include "format/write-plan.h"

QimgErrno qcow2_plan_write(QimgFormat *format, QimgGuestOffset guest_offset,
                           uint64_t length_bytes, QimgWritePlan *plan_out);
QimgErrno qcow2_publish(QimgFormat *format, QimgWritePlan *plan);
void qcow2_abandon(QimgFormat *format, QimgWritePlan *plan);
