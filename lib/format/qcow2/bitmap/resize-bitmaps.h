/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bitmaps' part in a change of the disk's size. With the gate closed:
 *
 *     prepare (the disk is unchanged; may fail) ─▶ the size is stored ─▶ finish
 *
 * In between, all bitmaps are marked as in use: only then may one differ from the disk in
 * size. */
#pragma once

#include "format/qcow2/bitmap/tracker.h"

typedef struct Qcow2BitmapsResize Qcow2BitmapsResize;

/* Whether the bitmaps allow a disk of @size_bytes. Inside the gate or while it is closed.
 * Accepts a layer without bitmaps. Errors: -EBUSY if one is in use or damaged, or the
 * disk would have no bytes; -EFBIG if one would exceed its limits. */
QimgErrno qcow2_check_bitmaps_size(const Qcow2 *q, uint64_t size_bytes) QIMG_MUST_CHECK;

/* Whether the present tables suffice for a disk of @size_bytes, no smaller than now. */
bool qcow2_bitmaps_fit(const Qcow2 *q, uint64_t size_bytes);

/* Makes the tables and the directory for a disk of @size_bytes. *@out is NULL if there is
 * nothing to do. Errors: as qcow2_check_bitmaps_size, plan_write. */
QimgErrno qcow2_prepare_bitmaps_resize(Qcow2 *q, uint64_t size_bytes,
                                       Qcow2BitmapsResize **out) QIMG_MUST_CHECK;

/* Switches the image to them, when the size is stored; frees @r (may be NULL). */
QimgErrno qcow2_finish_bitmaps_resize(Qcow2 *q, Qcow2BitmapsResize *r) QIMG_MUST_CHECK;

/* Frees the prepared tables; the size has not changed. Accepts NULL. */
void qcow2_abandon_bitmaps_resize(Qcow2BitmapsResize *r);
