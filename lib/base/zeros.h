/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one source of zeros for all that writes, compares or digests them. */
#pragma once

#include "base/types.h"

/* As many as the largest piece that is written at once. */
#define QIMG_ZEROS_BYTES (2 * QIMG_MIB)

/* QIMG_ZEROS_BYTES zeros, page aligned. They take no space in the program, and no memory
 * until something writes there, which nothing may. */
extern const uint8_t *const qimg_zeros;
