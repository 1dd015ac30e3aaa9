/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/check/repair-refcounts.h"

/* Rebuilds the refcount table and all blocks behind the end of the file, and makes the
 * header refer to them; the old ones are then free. The counts must be made for a
 * rebuild, and are invalid afterwards. Errors: -EFBIG if there is no room. */
QimgErrno qcow2_rebuild_refcounts(Qcow2Repair *repair) QIMG_MUST_CHECK;
