/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Storing bits in the file, in an order that a crash does no harm (tracker.h: B1). */
#pragma once

#include "format/qcow2/bitmap/tracker.h"

/* QimgDriver.make_room: writes all bits to the file and frees what memory they take; the
 * session goes on. With the gate closed, by the caller. */
void qcow2_spill_bitmaps(QimgFormat *format);

/* Stores all bits and ends the session, if there is one; what fails is logged, and leaves
 * the bitmaps in use. With the gate closed, or when no request runs any more. */
void qcow2_store_bitmaps(Qcow2Tracker *t);
