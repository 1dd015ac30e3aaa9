/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/check/repair-refcounts.h"

/* Makes the refcount table and all blocks anew behind the end of the file, and lets the
 * header refer to them; the old ones are free then. The counts are made for that, and are
 * of no use afterwards. Errors: -EFBIG where there is no room for all that. */
QimgErrno qcow2_rebuild_refcounts(Qcow2Repair *repair) QIMG_MUST_CHECK;
