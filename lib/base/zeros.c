/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/zeros.h"

/* Not const: a constant array would take space in the executable. */
static uint8_t zeros[QIMG_ZEROS_BYTES] __attribute__((aligned(4096)));

const uint8_t *const qimg_zeros = zeros;
