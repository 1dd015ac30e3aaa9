/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/count/count-walk.h"

/* Counts the references of header extensions. Stale bitmaps (their autoclear bit is
 * clear) do not count: their clusters are leaks. */
QimgErrno qcow2_walk_extensions(Qcow2Walk *w) QIMG_MUST_CHECK;
