/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/driver.h"

/* qimg_check of the layer @format, which was opened for that; @path is
 * how the result calls it; @task may be NULL. */
QimgCheckResult *image_check(QimgFormat *format, const char *path, QimgRepair mode,
                             const QimgTask *task, GError **error);
