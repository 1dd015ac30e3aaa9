/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/driver.h"

/* qimg_check of the layer @format, opened for a check; the result names it @path; @task
 * may be NULL. */
QimgCheckResult *image_check(QimgFormat *format, const char *path, QimgRepair mode,
                             const QimgTask *task, GError **error);
