/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Storing bits in the file, in an order that survives a crash (tracker.h: B1). */
#pragma once

#include "format/qcow2/bitmap/tracker.h"

/* QimgDriver.make_room: writes all bits to the file and frees their memory; the session
 * continues. The caller has closed the gate. */
void qcow2_spill_bitmaps(QimgFormat *format);

/* Stores all bits and ends the session, if there is one; a failure is logged, and leaves
 * the bitmaps in use. With the gate closed, or with no request in flight. */
void qcow2_store_bitmaps(Qcow2Tracker *t);
