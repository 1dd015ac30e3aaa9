/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/count/count-walk.h"

/* Counts what header extensions refer to. Bitmaps that are stale
 * (their autoclear bit is clear) are nobody's: their clusters are leaks. */
QimgErrno qcow2_walk_extensions(Qcow2Walk *w) QIMG_MUST_CHECK;
