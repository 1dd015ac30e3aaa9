/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/create-options.c and create.c: each property by name, and the public functions.
 * tests/oracle/test_create.py compares the content of the images with QEMU's. */
#include <glib/gstdio.h>
#include <string.h>

#include "image/create-options.h"
#include "test-util.h"

typedef struct {
    const char *name;
    const char *value;
    const char *error; /* NULL: accepted */
} Row;

static const Row rows[] = {
    {"format", "qcow2", NULL},
    {"format", "raw", NULL},
    {"format", "qed", NULL},
    {"format", "vmdk",
     "format=vmdk: is no format that can be made (give qcow2, qed or raw)"},
    {"table_size", "2", NULL},
    {"table_size", "16", NULL},
    {"table_size", "1", "table_size=1: unknown (give one of 2, 4, 8, 16)"},
    {"table_size", "3", "table_size=3: unknown (give one of 2, 4, 8, 16)"},
    {"size", "1.5G", NULL},
    {"size", NULL, "size: needs a value"},
    {"size", "18446744073709551615", "size=18446744073709551615: is too large"},
    {"size", "x",
     "size: \"x\" is no size (give a number of bytes, or one with K, M, G, T, P or E, "
     "like 1.5G, less than 16E)"},
    {"backing_file", "base", NULL},
    {"backing_file", "", "backing_file=: is empty"},
    {"backing_fmt", "anything", NULL},
    {"backing_fmt", "", "backing_fmt=: is empty"},
    {"cluster_size", "512", NULL},
    {"cluster_size", "2M", NULL},
    {"cluster_size", "0", "cluster_size=0: is no power of two"},
    {"cluster_size", "511", "cluster_size=511: is no power of two"},
    {"cluster_size", "1000", "cluster_size=1000: is no power of two"},
    {"cluster_size", "big", "cluster_size=big: is no power of two"},
    {"version", "2", NULL},
    {"version", "3", NULL},
    {"version", "1.1", "version=1.1: unknown (give one of 2, 3)"},
    {"compat", "0.10", NULL},
    {"compat", "1.1", NULL},
    {"compat", "3", "compat=3: unknown (give one of 0.10, 1.1)"},
    {"refcount_bits", "1", NULL},
    {"refcount_bits", "64", NULL},
    {"refcount_bits", "3",
     "refcount_bits=3: unknown (give one of 1, 2, 4, 8, 16, 32, 64)"},
    {"compression_type", "zstd", NULL},
    {"compression_type", "lzma",
     "compression_type=lzma: unknown (give one of zlib, zstd)"},
    {"extended_l2", "on", NULL},
    {"extended_l2", "off", NULL},
    {"extended_l2", NULL, NULL},
    {"extended_l2", "yes", "extended_l2=yes: unknown (give one of off, on)"},
    {"lazy_refcounts", NULL, NULL},
    {"data_file", "data", NULL},
    {"data_file", "", "data_file=: is empty"},
    {"data_file_raw", "on", NULL},
    {"preallocation", "off", NULL},
    {"preallocation", "full", NULL},
    {"preallocation", "none",
     "preallocation=none: unknown (give one of off, metadata, falloc, full)"},
    {"force", NULL, NULL},
    {"force", "1", "force: does not take a value"},
    {"no_check", NULL, NULL},
    {"backing", "any", NULL},
    {"backing_map", "a=b", NULL},
    {"nolock", NULL, NULL},
    {"rw", NULL, "rw: is no property of a new image"},
    {"", NULL, ": is no property of a new image"},
};

static void
test_rows(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(QimgCreate) create = qimg_create_new();
        GError *error = NULL;
        bool is_taken = qimg_create_set(create, rows[i].name, rows[i].value, &error);

        g_assert_cmpint(is_taken, ==, rows[i].error == NULL);
        if (!is_taken)
            test_util_check_error(&error, QIMG_ERROR_USAGE, rows[i].error);
    }
    qimg_create_free(NULL);
}

static void
test_fields(void)
{
    g_autoptr(QimgCreate) create = qimg_create_new();
    const QimgCreateOptions *f = &create->fields;

    g_assert_cmpuint(f->version, ==, 3);
    g_assert_cmpuint(f->cluster_bits, ==, 16);
    g_assert_cmpuint(f->refcount_order, ==, 4);
    test_util_set_property(create, "size", "1000");
    test_util_set_property(create, "cluster_size", "512");
    test_util_set_property(create, "refcount_bits", "64");
    test_util_set_property(create, "compat", "0.10");
    test_util_set_property(create, "compression_type", "zstd");
    test_util_set_property(create, "extended_l2", NULL);
    test_util_set_property(create, "lazy_refcounts", "on");
    test_util_set_property(create, "data_file_raw", "on");
    test_util_set_property(create, "preallocation", "falloc");
    g_assert_cmpuint(f->size_bytes, ==, 1024);
    g_assert_cmpuint(f->cluster_bits, ==, 9);
    g_assert_cmpuint(f->refcount_order, ==, 6);
    g_assert_cmpuint(f->version, ==, 2);
    g_assert_cmpint(f->compression, ==, QIMG_CODEC_ZSTD);
    g_assert_true(f->extended_l2 && f->lazy_refcounts && f->data_file_raw);
    g_assert_cmpint(f->preallocation, ==, QIMG_PREALLOCATION_FALLOC);
    test_util_set_property(create, "extended_l2", "off"); /* the last one counts */
    test_util_set_property(create, "version", "3");
    g_assert_false(f->extended_l2);
    g_assert_cmpuint(f->version, ==, 3);
}

/* One description makes several images; the public functions report the last. */
static void
test_run(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *base = g_build_filename(dir, "base.img", NULL);
    g_autofree char *path = g_build_filename(dir, "image", NULL);
    g_autoptr(QimgCreate) create = qimg_create_new();
    g_autoptr(QimgImage) image = NULL;
    GError *error = NULL;

    g_free(test_util_write(dir, "base.img", "words", 5));
    g_assert_false(qimg_create_run(create, path, NULL, NULL, &error));
    test_util_check_error(
        &error, QIMG_ERROR_USAGE,
        "size: is missing (give it, or a backing file to take it from)");
    test_util_set_property(create, "backing_file", "base.img");
    g_assert_true(qimg_create_run(create, path, NULL, NULL, &error));
    g_assert_cmpuint(qimg_create_get_size_bytes(create), ==, 512);
    g_assert_cmpstr(
        qimg_create_get_notes(create)[0], ==,
        "the format of the backing file was not given: stored as it was found, raw");
    g_assert_null(qimg_create_get_notes(create)[1]);
    g_assert_false(qimg_create_run(create, path, NULL, NULL, &error));
    test_util_check_error(&error, QIMG_ERROR_REFUSED,
                          "exists already, and is left as it is (give another name, or "
                          "--force to replace it)");
    test_util_set_property(create, "force", NULL);
    test_util_set_property(create, "size", "1M");
    g_assert_true(qimg_create_run(create, path, NULL, NULL, &error));
    g_assert_null(qimg_create_get_notes(create)[0]); /* the format is now known */
    image = qimg_image_open(path, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, 1 << 20);
    g_assert_cmpuint(qimg_image_get_n_layers(image), ==, 2);
    g_assert_cmpstr(qimg_image_get_layer_path(image, 1), ==, base);
    test_util_remove_dir(dir);
}

/* The added part of a disk is there, as requested, or the disk is as it was. */
static void
test_grow(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = g_build_filename(dir, "image", NULL);
    g_autoptr(QimgCreate) create = qimg_create_new();
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(QimgImage) image = NULL;
    uint64_t end = 1 << 20;

    test_util_set_property(create, "size", "1M");
    g_assert_true(qimg_create_run(create, path, NULL, NULL, NULL));
    image = qimg_image_open(path, NULL, NULL);
    g_assert_cmpint(qimg_image_grow(image, 2 << 20, QIMG_PREALLOCATION_OFF, NULL, NULL),
                    ==, -EROFS);
    g_clear_pointer(&image, qimg_image_close);
    qimg_options_set(options, "rw", NULL, NULL);
    image = qimg_image_open(path, options, NULL);
    g_assert_cmpint(qimg_image_grow(image, end, QIMG_PREALLOCATION_OFF, NULL, NULL), ==,
                    -EINVAL);
    g_assert_cmpint(
        qimg_image_grow(image, UINT64_MAX, QIMG_PREALLOCATION_OFF, NULL, NULL), ==,
        -EFBIG);
    for (int i = QIMG_PREALLOCATION_OFF; i <= QIMG_PREALLOCATION_FULL; i++) {
        QimgExtent extent = {.struct_bytes = sizeof extent};

        g_assert_cmpint(
            qimg_image_grow(image, end + 100000, (QimgPreallocation)i, NULL, NULL), ==,
            0);
        g_assert_cmpint(qimg_image_map(image, end, &extent), ==, 0);
        g_assert_cmpint(extent.present, ==, i != QIMG_PREALLOCATION_OFF);
        g_assert_cmpuint(qimg_image_get_size_bytes(image), >=, end + 100000);
        end = qimg_image_get_size_bytes(image);
    }
    test_util_remove_dir(dir);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/create/table", test_rows);
    g_test_add_func("/create/fields", test_fields);
    g_test_add_func("/create/run", test_run);
    g_test_add_func("/create/grow", test_grow);
    return g_test_run();
}
