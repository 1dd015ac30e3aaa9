/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a change of the disk's size does to its bitmaps. With the gate closed:
 *
 *     prepare (nothing of the disk has changed; may fail) ─▶ the size is stored ─▶ finish
 *
 * Between, all bitmaps are marked as in use: one of another size than the disk's is legal
 * only so. */
#pragma once

#include "format/qcow2/bitmap/tracker.h"

typedef struct Qcow2BitmapsResize Qcow2BitmapsResize;

/* Whether the bitmaps allow a disk of @size_bytes. Inside the gate or while it is closed.
 * Accepts a layer without bitmaps. Errors: -EBUSY where one is in use or damaged, or the
 * disk would have no bytes; -EFBIG where one would pass its limits. */
QimgErrno qcow2_check_bitmaps_size(const Qcow2 *q, uint64_t size_bytes) QIMG_MUST_CHECK;

/* Whether a disk of @size_bytes, no smaller than now, needs no other tables. */
bool qcow2_bitmaps_fit(const Qcow2 *q, uint64_t size_bytes);

/* Makes the tables and the directory that a disk of @size_bytes needs. *@out is NULL
 * where there is nothing to do. Errors: as qcow2_check_bitmaps_size, plan_write. */
QimgErrno qcow2_prepare_bitmaps_resize(Qcow2 *q, uint64_t size_bytes,
                                       Qcow2BitmapsResize **out) QIMG_MUST_CHECK;

/* Lets them be the image's, when the size is stored; frees @r (may be NULL). */
QimgErrno qcow2_finish_bitmaps_resize(Qcow2 *q, Qcow2BitmapsResize *r) QIMG_MUST_CHECK;

/* Frees what was prepared; the size has not changed. Accepts NULL. */
void qcow2_abandon_bitmaps_resize(Qcow2BitmapsResize *r);
