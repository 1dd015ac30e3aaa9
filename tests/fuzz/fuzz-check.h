/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checks and repairs a whole image of a format. */
#pragma once

#include "image/chain/handle.h"

/* Checks, repairs and checks again the image of @driver in @bytes: a byte for the kind of
 * repair, then the file. */
void fuzz_check(const QimgDriver *driver, const uint8_t *bytes, size_t n_bytes);
