/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Structures of qimg.h between a program and a library of different versions: in
 * structures made by the program, the library touches only the program's fields. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "test-util.h"

#define CANARY 0xa5

static QimgImage *
open_raw(char **dir_out)
{
    g_autofree uint8_t *bytes = g_malloc0(8192);
    g_autofree char *path = NULL;
    GError *error = NULL;
    QimgImage *image;

    *dir_out = test_util_make_dir();
    memset(bytes, 1, 8192);
    path = test_util_write(*dir_out, "disk.raw", bytes, 8192);
    image = qimg_image_open(path, NULL, &error);
    g_assert_no_error(error);
    return image;
}

/* A program of an earlier version, without the last fields. */
static void
test_smaller_extent(void)
{
    union {
        QimgExtent extent;
        uint8_t bytes[sizeof(QimgExtent)];
    } u;
    char *dir;
    QimgImage *image = open_raw(&dir);

    memset(&u, CANARY, sizeof u);
    u.extent.struct_bytes = offsetof(QimgExtent, depth);
    g_assert_cmpint(qimg_image_map(image, 4096, &u.extent), ==, 0);
    g_assert_cmpuint(u.extent.struct_bytes, ==, offsetof(QimgExtent, depth));
    g_assert_cmpuint(u.extent.guest_offset, ==, 4096);
    g_assert_cmpuint(u.extent.length_bytes, ==, 4096);
    g_assert_cmpint(u.extent.kind, ==, QIMG_EXTENT_DATA);
    for (size_t i = offsetof(QimgExtent, depth); i < sizeof u.bytes; i++)
        g_assert_cmphex(u.bytes[i], ==, CANARY);
    g_assert_false(QIMG_HAS(&u.extent, depth));
    g_assert_true(QIMG_HAS(&u.extent, kind));
    qimg_image_close(image);
    test_util_remove_dir(dir);
}

/* A program of a later version: fields unknown to this library become zeros. */
static void
test_larger_extent(void)
{
    struct {
        QimgExtent extent;
        uint8_t later[24];
        uint8_t behind[8];
    } u;
    char *dir;
    QimgImage *image = open_raw(&dir);

    memset(&u, CANARY, sizeof u);
    u.extent.struct_bytes = offsetof(__typeof__(u), behind);
    g_assert_cmpint(qimg_image_map(image, 0, &u.extent), ==, 0);
    g_assert_cmpuint(u.extent.struct_bytes, ==, offsetof(__typeof__(u), behind));
    g_assert_cmpuint(u.extent.length_bytes, ==, 8192);
    g_assert_nonnull(u.extent.host_path);
    for (size_t i = 0; i < sizeof u.later; i++)
        g_assert_cmphex(u.later[i], ==, 0);
    for (size_t i = 0; i < sizeof u.behind; i++)
        g_assert_cmphex(u.behind[i], ==, CANARY);
    qimg_image_close(image);
    test_util_remove_dir(dir);
}

/* Forgotten struct_bytes cause no crash. */
static void
test_no_size(void)
{
    QimgExtent extent = {0};
    QimgCopyOptions options = {0};
    char *dir;
    QimgImage *image = open_raw(&dir);

    g_assert_cmpint(qimg_image_map(image, 0, &extent), ==, -EINVAL);
    g_assert_null(qimg_copy_new(image, &options));
    qimg_image_close(image);
    test_util_remove_dir(dir);
}

/* Bytes behind a shorter structure of options are not read. */
static void
test_smaller_options(void)
{
    QimgCopyOptions options;
    GError *error = NULL;
    char *dir;
    QimgImage *image = open_raw(&dir);
    g_autofree char *target = g_build_filename(dir, "copy", NULL);
    QimgCopy *copy;

    memset(&options, CANARY, sizeof options);
    options.struct_bytes = offsetof(QimgCopyOptions, stream_fd);
    options.target_path = target;
    copy = qimg_copy_new(image, &options);
    qimg_copy_run(copy, &error);
    g_assert_no_error(error);
    g_assert_true(QIMG_HAS(qimg_copy_get_report(copy), is_resumable));
    g_assert_cmpuint(qimg_copy_get_report(copy)->done_bytes, ==, 8192);
    g_assert_null(qimg_copy_get_digest(copy, QIMG_DIGEST_MD5));
    g_assert_null(qimg_copy_get_unreadable(copy, 0));
    g_assert_cmpuint(qimg_copy_get_n_files(copy), ==, 0);
    qimg_copy_free(copy);
    qimg_image_close(image);
    test_util_remove_dir(dir);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/structs/smaller-extent", test_smaller_extent);
    g_test_add_func("/structs/larger-extent", test_larger_extent);
    g_test_add_func("/structs/no-size", test_no_size);
    g_test_add_func("/structs/smaller-options", test_smaller_options);
    return g_test_run();
}
