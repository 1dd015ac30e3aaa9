/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Adding, removing and changing bitmaps: all or nothing, by one switch of the directory.
 */
#pragma once

#include "format/bitmaps.h"
#include "format/qcow2/bitmap/tracker.h"

/* QimgDriver.change_bitmaps. */
bool qcow2_change_bitmaps(QimgFormat *format, const char *name,
                          const QimgFormatBitmapAction *actions, unsigned n_actions,
                          const QimgTask *task, GError **error);
