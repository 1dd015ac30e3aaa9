/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decompresses one zstd frame. The whole frame is passed at once, so that libzstd uses
 * the output as its window and allocates nothing for it, for any frame. */
#include "transform/zstd.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
free_context(void *context)
{
    ZSTD_freeDCtx(context);
}

static void
zstd_make_key(void)
{
    /* Without a key each thread's context would leak; there are few threads. */
    (void)pthread_key_create(&key, free_context);
}

static ZSTD_DCtx *
thread_context(void)
{
    static _Thread_local ZSTD_DCtx *mine;

    if (!mine) {
        pthread_once(&once, zstd_make_key);
        mine = ZSTD_createDCtx();
        if (mine)
            (void)pthread_setspecific(key, mine);
    }
    return mine;
}

QimgErrno
qimg_zstd_decompress(const uint8_t *input, size_t n_input, uint8_t *output,
                     size_t n_output)
{
    static const uint8_t magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    ZSTD_DCtx *context = thread_context();
    size_t n_frame, n_made;

    if (!context)
        return -ENOMEM;
    /* libzstd may also accept frames from before version 0.8, through decoders not made
     * for untrusted input. No image has them. */
    if (n_input < sizeof magic || memcmp(input, magic, sizeof magic) != 0)
        return -EIO;
    /* Garbage behind the frame must not be taken for a second one. */
    n_frame = ZSTD_findFrameCompressedSize(input, n_input);
    if (ZSTD_isError(n_frame))
        return -EIO;
    n_made = ZSTD_decompressDCtx(context, output, n_output, input, n_frame);
    if (ZSTD_isError(n_made))
        return ZSTD_getErrorCode(n_made) == ZSTD_error_memory_allocation ? -ENOMEM : -EIO;
    return n_made == n_output ? 0 : -EIO;
}
