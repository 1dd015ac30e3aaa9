/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end of a disk that may grow beside other requests. */
#pragma once

#include "image/chain/handle.h"

/* Whether the disk @image ends at @end, and does so until the caller leaves the gate: a
 * request that wants to grow it waits for that then. Inside the gate; no lock may be held
 * but those further out than SIZE. */
bool image_hold_end(QimgImage *image, uint64_t end) QIMG_MUST_CHECK;
