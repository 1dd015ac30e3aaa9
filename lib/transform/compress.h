/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A small interface for bounded decompression of one cluster. */
#pragma once

#include "base/types.h"

typedef enum {
    QIMG_CODEC_DEFLATE, /* raw RFC 1951 data */
    QIMG_CODEC_ZSTD,    /* one frame */
} QimgCodec;

/* Inflates the stream at the start of @input into exactly @n_output bytes; ignores any
 * bytes behind the stream in @input. Memory beyond the buffers is a few hundred KiB per
 * thread for any stream. Threads: any. Errors: -EIO for a stream that is broken, ends
 * early, or (zstd) yields more; -ENOMEM. @output is undefined on failure. Spec: qcow2
 * section 5. */
QimgErrno qimg_decompress(QimgCodec codec, const uint8_t *input, size_t n_input,
                          uint8_t *output, size_t n_output) QIMG_MUST_CHECK;
