/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inflates raw deflate data by libdeflate, and by zlib where libdeflate refuses.
 *
 * libdeflate requires the whole stream to fit; QEMU's reader accepts a full output even
 * if the stream goes on. So does zlib, which therefore decides all cases that libdeflate
 * refuses, and everything if libdeflate is absent. */
#include "transform/deflate.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <zlib.h>

#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
free_decompressor(void *decompressor)
{
    libdeflate_free_decompressor(decompressor);
}

static void
deflate_make_key(void)
{
    /* Without a key each thread's decompressor would leak; there are few threads. */
    (void)pthread_key_create(&key, free_decompressor);
}

static struct libdeflate_decompressor *
thread_decompressor(void)
{
    static _Thread_local struct libdeflate_decompressor *mine;

    if (!mine) {
        pthread_once(&once, deflate_make_key);
        mine = libdeflate_alloc_decompressor();
        if (mine)
            (void)pthread_setspecific(key, mine);
    }
    return mine;
}

static bool
try_libdeflate(const uint8_t *input, size_t n_input, uint8_t *output, size_t n_output)
{
    struct libdeflate_decompressor *decompressor = thread_decompressor();
    size_t n_used, n_made;

    return decompressor &&
           libdeflate_deflate_decompress_ex(decompressor, input, n_input, output,
                                            n_output, &n_used,
                                            &n_made) == LIBDEFLATE_SUCCESS &&
           n_made == n_output;
}
#else
static bool
try_libdeflate(const uint8_t *input, size_t n_input, uint8_t *output, size_t n_output)
{
    (void)input, (void)n_input, (void)output, (void)n_output;
    return false;
}
#endif

QimgErrno
qimg_deflate_decompress(const uint8_t *input, size_t n_input, uint8_t *output,
                        size_t n_output)
{
    z_stream stream = {0};
    int result;

    if (try_libdeflate(input, n_input, output, n_output))
        return 0;
    if (n_input > UINT_MAX || n_output > UINT_MAX)
        return -EIO;
    /* Negative: raw data without a header. Writers use a window of 4 KiB; all sizes are
     * read. */
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
        return -ENOMEM;
    stream.next_in = (z_const Bytef *)input;
    stream.avail_in = (uInt)n_input;
    stream.next_out = output;
    stream.avail_out = (uInt)n_output;
    result = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    if (stream.avail_out == 0 && (result == Z_STREAM_END || result == Z_BUF_ERROR))
        return 0;
    return result == Z_MEM_ERROR ? -ENOMEM : -EIO;
}
