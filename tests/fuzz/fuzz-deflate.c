/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inflating a deflate cluster. Input: one byte that chooses the cluster size, then the
 * stream. Both buffers are exactly as long as they are said to be. */
#include "fuzz-codec.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    return fuzz_codec(QIMG_CODEC_DEFLATE, bytes, n_bytes);
}
