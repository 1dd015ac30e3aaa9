/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/check/repair-refcounts.h"

/* The place of a refcount table. */
typedef struct {
    uint64_t table_offset;
    uint32_t n_table_clusters;
} Qcow2RefcountPlace;

/* Writes a refcount table and blocks behind the end of the file that hold the counts,
 * durably; nothing refers to them yet. The counts must be made for a rebuild, and count
 * the new structures, too, afterwards. Errors: -EFBIG if there is no room. */
QimgErrno qcow2_build_refcounts(Qcow2Repair *repair, Qcow2RefcountPlace *out)
    QIMG_MUST_CHECK;

/* Rebuilds the refcount table and all blocks behind the end of the file, and makes the
 * header refer to them; the old ones are then free. The counts must be made for a
 * rebuild, and are invalid afterwards. Errors: -EFBIG if there is no room. */
QimgErrno qcow2_rebuild_refcounts(Qcow2Repair *repair) QIMG_MUST_CHECK;
