/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/zeros.h"

/* Not const: a constant array would lie in the file. */
static uint8_t zeros[QIMG_ZEROS_BYTES] __attribute__((aligned(4096)));

const uint8_t *const qimg_zeros = zeros;
