/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end of a disk that may grow during other requests. */
#pragma once

#include "image/chain/handle.h"

/* Whether the disk @image ends at @end; if so, keeps that end until the caller leaves the
 * gate: requests that want to grow the disk wait. Inside the gate; the caller may only
 * hold locks of ranks outside SIZE. */
bool image_hold_end(QimgImage *image, uint64_t end) QIMG_MUST_CHECK;
