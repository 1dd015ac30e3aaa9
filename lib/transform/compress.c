/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Selects the implementation of a compression type. */
#include "transform/compress.h"

#include <errno.h>

#include "transform/deflate.h"
#include "transform/zstd.h"

QimgErrno
qimg_decompress(QimgCodec codec, const uint8_t *input, size_t n_input, uint8_t *output,
                size_t n_output)
{
    switch (codec) {
    case QIMG_CODEC_DEFLATE:
        return qimg_deflate_decompress(input, n_input, output, n_output);
    case QIMG_CODEC_ZSTD:
        return qimg_zstd_decompress(input, n_input, output, n_output);
    }
    return -EIO;
}
