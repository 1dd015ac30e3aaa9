/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/check-report.h"
#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.check. */
bool qcow2_check(QimgFormat *format, QimgCheckReport *report, GError **error);
