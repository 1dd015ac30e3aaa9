/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. */
#pragma once

#include "format/check-report.h"
#include "format/qcow2/layer/qcow2.h"

bool qcow2_repair(QimgFormat *format, QimgRepair mode, QimgCheckReport *report,
                  GError **error);

/* Makes the refcounts and COPIED flags of a dirty image match its references, and clears
 * the dirty bit. Before the layer is active, under alloc_lock, with the refcount table
 * loaded. Errors: -EIO if the tables are too damaged to be counted, -EFBIG if a count
 * would take too much memory (both before anything is written, and permanent: the layer
 * is broken); those of the storage, after which the caller can try again. */
QimgErrno qcow2_repair_dirty(Qcow2 *q) QIMG_MUST_CHECK;
