/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zeros in a buffer. */
#pragma once

#include "base/types.h"

/* The unit of skipped zeros: a page, and the block of most file systems. */
#define COPY_GRANULE_BYTES 4096u

/* Zeros written or digested at once, from base/zeros.h. */
#define COPY_ZEROS_BYTES (64 * QIMG_KIB)

/* Finds the next run of granules with data at or behind @*start_inout, an offset in
 * @buffer at the start of a granule: false if everything up to @n_bytes is zeros, else
 * the run is [*@start_inout, *@end_out). The last granule may be short. Pure. */
bool copy_find_data(const uint8_t *buffer, size_t n_bytes, size_t *start_inout,
                    size_t *end_out);
