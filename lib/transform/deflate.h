/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* As qimg_decompress. */
#pragma once

#include "base/types.h"

QimgErrno qimg_deflate_decompress(const uint8_t *input, size_t n_input, uint8_t *output,
                                  size_t n_output) QIMG_MUST_CHECK;
