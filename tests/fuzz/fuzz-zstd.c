/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inflates a zstd cluster. Input: one byte for the cluster size, then the stream. Both
 * buffers have exactly the passed lengths. */
#include "fuzz-codec.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    return fuzz_codec(QIMG_CODEC_ZSTD, bytes, n_bytes);
}
