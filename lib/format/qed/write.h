/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. */
#pragma once

#include "format/qed/qed.h"
#include "format/write-plan.h"

QimgErrno qed_plan_write(QimgFormat *format, QimgGuestOffset guest_offset,
                         uint64_t length_bytes, QimgWritePlan *plan_out);
QimgErrno qed_publish(QimgFormat *format, QimgWritePlan *plan);
void qed_abandon(QimgFormat *format, QimgWritePlan *plan);
