/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the targets of the decompressors. */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "transform/compress.h"

static inline int
fuzz_codec(QimgCodec codec, const uint8_t *bytes, size_t n_bytes)
{
    uint8_t *input, *output, *again;
    size_t n_output;

    if (n_bytes < 2)
        return 0;
    n_output = (size_t)512 << bytes[0] % 9; /* 512 bytes to 128 KiB */
    n_bytes--;
    input = malloc(n_bytes);
    output = malloc(n_output);
    again = malloc(n_output);
    if (input && output && again) {
        memcpy(input, bytes + 1, n_bytes);
        memset(output, 0x55, n_output);
        memset(again, 0xaa, n_output);
        /* All of the output is defined, or the stream is refused. */
        if (qimg_decompress(codec, input, n_bytes, output, n_output) == 0) {
            FUZZ_CHECK(qimg_decompress(codec, input, n_bytes, again, n_output) == 0);
            FUZZ_CHECK(memcmp(output, again, n_output) == 0);
        }
        FUZZ_CHECK(memcmp(input, bytes + 1, n_bytes) == 0);
    }
    free(again);
    free(output);
    free(input);
    return 0;
}
