/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images opened by a descriptor, and the facts about each layer. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qimg.h"
#include "test-util.h"

typedef struct {
    char *dir;
    char *base;
    char *relative; /* images over base, by both kinds of names */
    char *absolute;
} Fixture;

static void
make(const char *path, const char *backing)
{
    g_autoptr(QimgCreate) create = qimg_create_new();
    GError *error = NULL;

    test_util_set_property(create, "size", "1M");
    if (backing) {
        test_util_set_property(create, "backing_file", backing);
        test_util_set_property(create, "backing_fmt", "qcow2");
    }
    qimg_create_run(create, path, NULL, NULL, &error);
    g_assert_no_error(error);
}

static void
set_up(Fixture *f)
{
    f->dir = test_util_make_dir();
    f->base = g_build_filename(f->dir, "base.qcow2", NULL);
    f->relative = g_build_filename(f->dir, "relative.qcow2", NULL);
    f->absolute = g_build_filename(f->dir, "absolute.qcow2", NULL);
    make(f->base, NULL);
    make(f->relative, "base.qcow2");
    make(f->absolute, f->base);
}

static void
tear_down(Fixture *f)
{
    g_free(f->base);
    g_free(f->relative);
    g_free(f->absolute);
    test_util_remove_dir(f->dir);
}

/* @option is NAME or NAME=VALUE; NULL: none. */
static QimgImage *
open_by_fd(const char *path, int flags, const char *option, GError **error)
{
    qimg_autofd fd = open(path, flags | O_CLOEXEC);
    g_autoptr(QimgOptions) options = qimg_options_new();

    g_assert_cmpint(fd, >=, 0);
    if (option) {
        g_auto(GStrv) parts = g_strsplit(option, "=", 2);

        g_assert_true(qimg_options_set(options, parts[0], parts[1], error));
    }
    return qimg_image_open_fd(fd, "shown", options, error);
}

/* The descriptor is closed while the image is used. */
static void
test_read_and_write(void)
{
    uint8_t byte = 7, found = 0;
    GError *error = NULL;
    QimgImage *image;
    Fixture f;

    set_up(&f);
    image = open_by_fd(f.base, O_RDWR, "rw", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(qimg_image_get_layer_path(image, 0), ==, "shown");
    g_assert_cmpint(qimg_image_write(image, 4096, &byte, 1), ==, 0);
    qimg_image_close(image);
    image = open_by_fd(f.base, O_RDONLY, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(qimg_image_read(image, 4096, &found, 1), ==, 0);
    g_assert_cmpuint(found, ==, 7);
    qimg_image_close(image);
    image = open_by_fd(f.base, O_RDONLY, "cow", &error);
    g_assert_no_error(error);
    g_assert_cmpint(qimg_image_write(image, 4096, "x", 1), ==, 0);
    qimg_image_close(image);
    tear_down(&f);
}

/* An image that has no name anywhere. */
static void
test_memory(void)
{
    qimg_autofd fd = memfd_create("disk", MFD_CLOEXEC);
    g_autofree char *bytes = NULL;
    GError *error = NULL;
    gsize n_bytes;
    QimgImage *image;
    Fixture f;

    set_up(&f);
    g_assert_true(g_file_get_contents(f.base, &bytes, &n_bytes, NULL));
    g_assert_cmpint(write(fd, bytes, n_bytes), ==, n_bytes);
    image = qimg_image_open_fd(fd, "memory", NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, 1 << 20);
    g_assert_cmpstr(qimg_image_get_layer_format(image, 0), ==, "qcow2");
    qimg_image_close(image);
    tear_down(&f);
}

static void
check_refused(const char *path, int flags, const char *option, int code, const char *text)
{
    GError *error = NULL;

    g_assert_null(open_by_fd(path, flags, option, &error));
    g_assert_error(error, QIMG_ERROR, code);
    if (!strstr(error->message, text))
        g_error("%s: not in: %s", text, error->message);
    g_error_free(error);
}

static void
test_descriptors(void)
{
    Fixture f;

    set_up(&f);
    check_refused(f.base, O_WRONLY, NULL, QIMG_ERROR_USAGE, "O_RDONLY or O_RDWR");
    check_refused(f.base, O_PATH, NULL, QIMG_ERROR_USAGE, "does not fit");
    check_refused(f.base, O_RDONLY, "rw", QIMG_ERROR_USAGE, "open the file with O_RDWR");
    check_refused(f.base, O_RDWR | O_APPEND, "rw", QIMG_ERROR_USAGE, "O_APPEND");
    check_refused(f.base, O_RDONLY, "cow=over.qcow2", QIMG_ERROR_USAGE,
                  "cow=over.qcow2: an overlay that stays");
    check_refused(f.dir, O_RDONLY, NULL, QIMG_ERROR_NOT_AN_IMAGE, "no regular file");
    tear_down(&f);
}

/* By default no file named by the image is opened; a named directory, or a mapping,
 * permits it. */
static void
test_backing(void)
{
    GError *error = NULL;
    QimgImage *image;
    Fixture f;
    g_autofree char *map = NULL;
    g_autofree char *dir = NULL;

    set_up(&f);
    map = g_strconcat("backing_map=base.qcow2=", f.base, NULL);
    dir = g_strconcat("backing=", f.dir, NULL);
    check_refused(f.relative, O_RDONLY, "format=qcow2", QIMG_ERROR_REFUSED,
                  "relative to the directory of the image");
    check_refused(f.relative, O_RDONLY, "backing=any", QIMG_ERROR_REFUSED,
                  "backing_map='base.qcow2'=NEW");
    check_refused(f.absolute, O_RDONLY, "format=qcow2", QIMG_ERROR_REFUSED,
                  "outside the allowed directories");
    check_refused(f.absolute, O_RDONLY, "backing=same-dir", QIMG_ERROR_REFUSED,
                  "outside the allowed directories");
    check_refused(f.absolute, O_RDONLY, NULL, QIMG_ERROR_REFUSED, "");
    image = open_by_fd(f.absolute, O_RDONLY, dir, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(qimg_image_get_n_layers(image), ==, 2);
    qimg_image_close(image);
    {
        g_autoptr(QimgOptions) options = qimg_options_new();
        qimg_autofd fd = open(f.relative, O_RDONLY | O_CLOEXEC);

        qimg_options_set(options, "format", "qcow2", &error);
        qimg_options_set(options, "backing_map", map + strlen("backing_map="), &error);
        image = qimg_image_open_fd(fd, "shown", options, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(qimg_image_get_layer_path(image, 1), ==, f.base);
        qimg_image_close(image);
    }
    tear_down(&f);
}

static void
test_layers(void)
{
    GError *error = NULL;
    QimgImage *image;
    Fixture f;

    set_up(&f);
    image = qimg_image_open(f.relative, NULL, &error);
    g_assert_no_error(error);
    for (unsigned depth = 0; depth < 2; depth++) {
        g_assert_cmpstr(qimg_image_get_layer_format(image, depth), ==, "qcow2");
        g_assert_cmpuint(qimg_image_get_layer_flags(image, depth), ==, 0);
    }
    g_assert_cmpstr(qimg_image_get_layer_backing_name(image, 0), ==, "base.qcow2");
    g_assert_null(qimg_image_get_layer_backing_name(image, 1));
    g_assert_null(qimg_image_get_layer_format(image, 2));
    g_assert_null(qimg_image_get_layer_backing_name(image, 2));
    g_assert_cmpuint(qimg_image_get_layer_flags(image, 2), ==, 0);
    qimg_image_close(image);
    tear_down(&f);
}

/* Byte 79 of the header has the features dirty and corrupt. */
static void
test_flags(void)
{
    static const struct {
        uint8_t features;
        uint8_t crypt_method;
        unsigned flags;
    } rows[] = {
        {0, 0, 0},
        {1, 0, QIMG_LAYER_DIRTY},
        {2, 0, QIMG_LAYER_CORRUPT},
        {3, 1, QIMG_LAYER_DIRTY | QIMG_LAYER_CORRUPT | QIMG_LAYER_ENCRYPTED},
    };
    Fixture f;

    set_up(&f);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(QimgOptions) options = qimg_options_new();
        g_autofree char *bytes = NULL;
        GError *error = NULL;
        gsize n_bytes;
        QimgImage *image;

        g_assert_true(g_file_get_contents(f.base, &bytes, &n_bytes, NULL));
        bytes[79] = (char)rows[i].features;
        bytes[35] = (char)rows[i].crypt_method;
        g_assert_true(g_file_set_contents(f.base, bytes, (gssize)n_bytes, NULL));
        qimg_options_set(options, "inspect", NULL, &error);
        image = qimg_image_open(f.base, options, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(qimg_image_get_layer_flags(image, 0), ==, rows[i].flags);
        qimg_image_close(image);
    }
    tear_down(&f);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/open-fd/read-and-write", test_read_and_write);
    g_test_add_func("/open-fd/memory", test_memory);
    g_test_add_func("/open-fd/descriptors", test_descriptors);
    g_test_add_func("/open-fd/backing", test_backing);
    g_test_add_func("/open-fd/layers", test_layers);
    g_test_add_func("/open-fd/flags", test_flags);
    return g_test_run();
}
