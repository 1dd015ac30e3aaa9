/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one source of zeros for writing, comparing and digesting. */
#pragma once

#include "base/types.h"

/* The largest piece written at once. */
#define QIMG_ZEROS_BYTES (2 * QIMG_MIB)

/* QIMG_ZEROS_BYTES zeros, page aligned. They take no space in the executable, and no
 * memory unless something writes to them, which is forbidden. */
extern const uint8_t *const qimg_zeros;
