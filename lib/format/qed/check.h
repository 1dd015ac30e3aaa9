/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. */
#pragma once

#include "format/check-report.h"
#include "format/qed/qed.h"

bool qed_check(QimgFormat *format, QimgCheckReport *report, GError **error);
bool qed_repair(QimgFormat *format, QimgRepair mode, QimgCheckReport *report,
                GError **error);
