/* SPDX-License-Identifier: GPL-2.0-or-later */
/* transform/: bytes behind a stream do not matter, missing ones do; the buffers have
 * exactly the passed lengths. Spec: qcow2 section 5. */
#include "transform/compress.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "test-util.h"

#define N_CLUSTER 4096u

static uint8_t content[2 * N_CLUSTER];

static void
fill_content(void)
{
    for (unsigned i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i * 7 + i / 100);
}

static GByteArray *
deflate_stream(const uint8_t *bytes, size_t n_bytes, int window_bits, int level)
{
    GByteArray *stream = g_byte_array_new();
    z_stream z = {0};

    g_byte_array_set_size(stream, (guint)n_bytes + 1000);
    g_assert_cmpint(
        deflateInit2(&z, level, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY), ==,
        Z_OK);
    z.next_in = (z_const Bytef *)bytes;
    z.avail_in = (uInt)n_bytes;
    z.next_out = stream->data;
    z.avail_out = stream->len;
    g_assert_cmpint(deflate(&z, Z_FINISH), ==, Z_STREAM_END);
    g_byte_array_set_size(stream, (guint)z.total_out);
    deflateEnd(&z);
    return stream;
}

static GByteArray *
zstd_stream(const uint8_t *bytes, size_t n_bytes, bool with_size, int window_log)
{
    GByteArray *stream = g_byte_array_new();
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_inBuffer in = {.src = bytes, .size = n_bytes};
    ZSTD_outBuffer out;

    g_byte_array_set_size(stream, (guint)ZSTD_compressBound(n_bytes) + 100);
    out = (ZSTD_outBuffer){.dst = stream->data, .size = stream->len};
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, with_size);
    if (window_log > 0)
        ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
    if (!with_size) /* unknown in advance, so that the frame cannot say it */
        g_assert_false(
            ZSTD_isError(ZSTD_compressStream2(context, &out, &in, ZSTD_e_flush)));
    g_assert_cmpint(ZSTD_compressStream2(context, &out, &in, ZSTD_e_end), ==, 0);
    g_byte_array_set_size(stream, (guint)out.pos);
    ZSTD_freeCCtx(context);
    return stream;
}

/* Decompresses exact copies of the first @n_bytes of @stream into @n_output bytes. */
static QimgErrno
decompress(QimgCodec codec, const GByteArray *stream, size_t n_bytes, size_t n_output)
{
    g_autofree uint8_t *input = g_memdup2(stream->data, n_bytes);
    g_autofree uint8_t *output = g_malloc(n_output);
    QimgErrno err;

    memset(output, 0xee, n_output);
    err = qimg_decompress(codec, input, n_bytes, output, n_output);
    if (!err)
        g_assert_cmpmem(output, n_output, content, n_output);
    return err;
}

static GByteArray *
stream_of(QimgCodec codec, size_t n_bytes)
{
    return codec == QIMG_CODEC_DEFLATE ? deflate_stream(content, n_bytes, -12, 9)
                                       : zstd_stream(content, n_bytes, true, 0);
}

static void
test_codec(gconstpointer user)
{
    QimgCodec codec = (QimgCodec)GPOINTER_TO_INT(user);
    g_autoptr(GByteArray) whole = stream_of(codec, N_CLUSTER);
    g_autoptr(GByteArray) shorter = stream_of(codec, N_CLUSTER - 1);
    g_autoptr(GByteArray) longer = stream_of(codec, N_CLUSTER + 1);
    g_autoptr(GByteArray) empty = stream_of(codec, 0);
    size_t n_whole = whole->len;

    g_assert_cmpint(decompress(codec, whole, n_whole, N_CLUSTER), ==, 0);
    g_assert_cmpint(decompress(codec, shorter, shorter->len, N_CLUSTER), ==, -EIO);
    g_assert_cmpint(decompress(codec, empty, empty->len, N_CLUSTER), ==, -EIO);
    g_assert_cmpint(decompress(codec, whole, 0, N_CLUSTER), ==, -EIO);
    /* QEMU's deflate reader accepts a full output; its zstd reader does not. */
    g_assert_cmpint(decompress(codec, longer, longer->len, N_CLUSTER), ==,
                    codec == QIMG_CODEC_DEFLATE ? 0 : -EIO);
    for (size_t n = 0; n < n_whole; n++) {
        QimgErrno err = decompress(codec, whole, n, N_CLUSTER);

        /* Deflate's end mark may be missing if all bytes are there. */
        g_assert_true(err == -EIO ||
                      (err == 0 && codec == QIMG_CODEC_DEFLATE && n + 2 >= n_whole));
    }
    /* Garbage, zeros, or another stream behind. */
    for (unsigned kind = 0; kind < 3; kind++) {
        g_byte_array_set_size(whole, (guint)n_whole + 300);
        memset(whole->data + n_whole, kind == 0 ? 0xff : 0, 300);
        if (kind == 2)
            memcpy(whole->data + n_whole, whole->data, MIN(n_whole, 300));
        for (size_t n = n_whole; n <= whole->len; n++)
            g_assert_cmpint(decompress(codec, whole, n, N_CLUSTER), ==, 0);
    }
    /* Damage anywhere never gives wrong lengths or crashes; bytes may differ. */
    for (size_t i = 0; i < n_whole; i++) {
        g_autofree uint8_t *spoiled = g_memdup2(whole->data, n_whole);
        g_autofree uint8_t *output = g_malloc(N_CLUSTER);
        QimgErrno err;

        spoiled[i] ^= 0x55;
        err = qimg_decompress(codec, spoiled, n_whole, output, N_CLUSTER);
        g_assert_true(err == 0 || err == -EIO);
    }
    g_assert_cmpint(decompress(codec, whole, n_whole, N_CLUSTER), ==, 0);
}

static void
test_deflate_kinds(void)
{
    static const int levels[] = {0, 1, 9};

    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++) {
        for (int window_bits = 9; window_bits <= 15; window_bits++) {
            g_autoptr(GByteArray) raw =
                deflate_stream(content, N_CLUSTER, -window_bits, levels[i]);
            g_autoptr(GByteArray) headed =
                deflate_stream(content, N_CLUSTER, window_bits, levels[i]);

            g_assert_cmpint(decompress(QIMG_CODEC_DEFLATE, raw, raw->len, N_CLUSTER), ==,
                            0);
            /* A zlib header is no part of the format. */
            g_assert_cmpint(
                decompress(QIMG_CODEC_DEFLATE, headed, headed->len, N_CLUSTER), ==, -EIO);
        }
    }
}

static void
test_zstd_kinds(void)
{
    g_autoptr(GByteArray) no_size = zstd_stream(content, N_CLUSTER, false, 0);
    g_autoptr(GByteArray) wide = zstd_stream(content, N_CLUSTER, false, 27);
    g_autoptr(GByteArray) skippable = g_byte_array_new();
    g_autoptr(GByteArray) dictionary = zstd_stream(content, N_CLUSTER, true, 0);
    static const uint8_t skip[] = {0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2};

    g_assert_cmpint(decompress(QIMG_CODEC_ZSTD, no_size, no_size->len, N_CLUSTER), ==, 0);
    /* A demanded window of 128 MiB costs nothing: the output is the window. */
    g_assert_cmpint(decompress(QIMG_CODEC_ZSTD, wide, wide->len, N_CLUSTER), ==, 0);
    /* The stream must be one frame of data. */
    g_byte_array_append(skippable, skip, sizeof skip);
    g_byte_array_append(skippable, no_size->data, no_size->len);
    g_assert_cmpint(decompress(QIMG_CODEC_ZSTD, skippable, skippable->len, N_CLUSTER), ==,
                    -EIO);
    /* The magic number of version 0.7. */
    no_size->data[0]--;
    g_assert_cmpint(decompress(QIMG_CODEC_ZSTD, no_size, no_size->len, N_CLUSTER), ==,
                    -EIO);
    g_assert_cmpint(decompress(QIMG_CODEC_ZSTD, no_size, 3, N_CLUSTER), ==, -EIO);
    /* A frame that needs a dictionary: the descriptor's low bits give the length of its
     * number, which follows. */
    dictionary->data[4] |= 1;
    g_assert_cmpint(decompress(QIMG_CODEC_ZSTD, dictionary, dictionary->len, N_CLUSTER),
                    ==, -EIO);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    fill_content();
    g_test_add_data_func("/compress/deflate", GINT_TO_POINTER(QIMG_CODEC_DEFLATE),
                         test_codec);
    g_test_add_data_func("/compress/zstd", GINT_TO_POINTER(QIMG_CODEC_ZSTD), test_codec);
    g_test_add_func("/compress/deflate-kinds", test_deflate_kinds);
    g_test_add_func("/compress/zstd-kinds", test_zstd_kinds);
    return g_test_run();
}
