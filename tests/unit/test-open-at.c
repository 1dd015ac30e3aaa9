/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For programs that open the images of a directory one after the other: opening below a
 * descriptor, whether a file is an image, whether an image is still the same. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qimg.h"
#include "test-util.h"

static void
make(const char *dir, const char *name, const char *backing)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autoptr(QimgCreate) create = qimg_create_new();
    GError *error = NULL;

    test_util_set_property(create, "force", NULL);
    if (backing) {
        test_util_set_property(create, "backing_file", backing);
        test_util_set_property(create, "backing_fmt", "qcow2");
    } else {
        test_util_set_property(create, "size", "1M");
    }
    g_assert_true(qimg_create_run(create, path, NULL, NULL, &error));
    g_assert_no_error(error);
}

/* The stamp of top, opened below @dir_fd. */
static uint64_t
stamp_of_top(int dir_fd)
{
    GError *error = NULL;
    g_autoptr(QimgImage) image =
        qimg_image_open_at(dir_fd, "top", "shown/top", NULL, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(qimg_image_get_layer_path(image, 0), ==, "shown/top");
    g_assert_cmpstr(qimg_image_get_layer_path(image, 1), ==, "shown/base");
    return qimg_image_get_stamp(image);
}

/* The stamp changes with any file of the chain, and with nothing else. */
static void
test_stamp(void)
{
    g_autofree char *dir = test_util_make_dir();
    qimg_autofd dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    uint64_t first, second;

    make(dir, "base", NULL);
    make(dir, "top", "base");
    first = stamp_of_top(dir_fd);
    g_assert_cmpuint(stamp_of_top(dir_fd), ==, first);
    make(dir, "base", NULL);
    second = stamp_of_top(dir_fd);
    g_assert_cmpuint(second, !=, first);
    make(dir, "top", "base");
    g_assert_cmpuint(stamp_of_top(dir_fd), !=, second);
    test_util_remove_dir(g_steal_pointer(&dir));
}

/* The directory may be renamed meanwhile, and another one may have its name. */
static void
test_below_a_descriptor(void)
{
    g_autofree char *dir = test_util_make_dir();
    g_autofree char *old_path = g_build_filename(dir, "old", NULL);
    g_autofree char *new_path = g_build_filename(dir, "new", NULL);
    qimg_autofd dir_fd = -1;
    GError *error = NULL;

    g_assert_cmpint(g_mkdir(old_path, 0700), ==, 0);
    dir_fd = open(old_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    make(old_path, "base", NULL);
    make(old_path, "top", "base");
    g_assert_cmpint(rename(old_path, new_path), ==, 0);
    g_assert_cmpint(g_mkdir(old_path, 0700), ==, 0);
    (void)stamp_of_top(dir_fd);
    g_assert_null(qimg_image_open_at(dir_fd, "absent", "shown/absent", NULL, &error));
    g_assert_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND);
    g_clear_error(&error);
    test_util_remove_dir(g_steal_pointer(&dir));
}

static void
test_probe(void)
{
    static const struct {
        const char *bytes;
        size_t n_bytes;
        const char *format;
    } cases[] = {
        {"QFI\xfb\0\0\0\3", 8, "qcow2"},
        {"QFI\xfb\0\0\0\2", 8, "qcow2"},
        {"QFI\xfb\0\0\0\1", 8, "qcow"},
        {"QFI\xfb\0\0\0\0", 8, "qcow2"}, /* no existing version, and no raw disk */
        {"QFI\xfb", 4, "qcow2"},
        {"QFI", 3, NULL},
        {"", 0, NULL},
        {"plain text", 10, NULL},
        {"KDMV", 4, NULL}, /* a VMDK */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
        g_assert_cmpstr(qimg_probe(cases[i].bytes, cases[i].n_bytes), ==,
                        cases[i].format);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/open-at/stamp", test_stamp);
    g_test_add_func("/open-at/below-a-descriptor", test_below_a_descriptor);
    g_test_add_func("/open-at/probe", test_probe);
    return g_test_run();
}
