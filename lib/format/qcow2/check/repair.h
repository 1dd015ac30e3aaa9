/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. */
#pragma once

#include "format/check-report.h"
#include "format/qcow2/check/rebuild.h"
#include "format/qcow2/layer/qcow2.h"

bool qcow2_repair(QimgFormat *format, QimgRepair mode, QimgCheckReport *report,
                  GError **error);

/* Makes the refcounts and COPIED flags of a dirty image match its references, and clears
 * the dirty bit. Before the layer is active, under alloc_lock, with the refcount table
 * loaded. Errors: -EIO if the tables are too damaged to be counted, -EFBIG if a count
 * would take too much memory (both before anything is written, and permanent: the layer
 * is broken); those of the storage, after which the caller can try again. */
QimgErrno qcow2_repair_dirty(Qcow2 *q) QIMG_MUST_CHECK;

/* Counts the references of a layer that was opened for_check, and writes a refcount table
 * and blocks for refcounts of 2^@order bits behind the end of the file, durably. The
 * header still names the old ones; when it names those at *@out, the old ones are free.
 * Errors: -EIO for a damaged image, or one with unknown extensions, -ERANGE if a refcount
 * would not fit, -EFBIG if there is no room, -ECANCELED, those of the storage: nothing
 * but the end of the file has changed. */
QimgErrno qcow2_make_refcounts(Qcow2 *q, uint32_t order, const QimgTask *task,
                               Qcow2RefcountPlace *out) QIMG_MUST_CHECK;
