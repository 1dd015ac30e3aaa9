/* SPDX-License-Identifier: GPL-2.0-or-later */
/* storage/same-file.c: links, copies, and nodes of devices. */
#include "storage/same-file.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "test-util.h"

static struct stat
status_of(const char *path)
{
    struct stat status;

    g_assert_cmpint(stat(path, &status), ==, 0);
    return status;
}

static void
test_files(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *file = test_util_write(dir, "file", "x", 1);
    g_autofree char *other = test_util_write(dir, "other", "x", 1);
    g_autofree char *hard = g_build_filename(dir, "hard", NULL);
    g_autofree char *soft = g_build_filename(dir, "soft", NULL);
    const struct stat none = {0};
    struct stat a = status_of(file), b = status_of(other), c, d;

    g_assert_cmpint(link(file, hard), ==, 0);
    g_assert_cmpint(symlink("file", soft), ==, 0);
    c = status_of(hard);
    d = status_of(soft);
    g_assert_true(qimg_is_same_file(&a, &c));
    g_assert_true(qimg_is_same_file(&a, &d));
    g_assert_false(qimg_is_same_file(&a, &b));
    g_assert_false(qimg_is_same_file(&a, &none));
    g_assert_false(qimg_is_same_file(&none, &none));
    test_util_remove_dir(dir);
}

/* The nodes are examined, not opened: the devices need not exist. */
static void
test_nodes(void)
{
    static const mode_t kinds[] = {S_IFBLK, S_IFCHR};
    char *dir = test_util_make_dir();

    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *first = g_strdup_printf("%s/first%zu", dir, i);
        g_autofree char *second = g_strdup_printf("%s/second%zu", dir, i);
        g_autofree char *other = g_strdup_printf("%s/other%zu", dir, i);
        struct stat a, b, c;

        if (mknod(first, kinds[i] | 0600, makedev(7, 200)) < 0) {
            g_test_skip(g_strerror(errno));
            break;
        }
        g_assert_cmpint(mknod(second, kinds[i] | 0600, makedev(7, 200)), ==, 0);
        g_assert_cmpint(mknod(other, kinds[i] | 0600, makedev(7, 201)), ==, 0);
        a = status_of(first);
        b = status_of(second);
        c = status_of(other);
        g_assert_true(qimg_is_same_file(&a, &b));
        g_assert_false(qimg_is_same_file(&a, &c));
    }
    test_util_remove_dir(dir);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/same-file/files", test_files);
    g_test_add_func("/same-file/nodes", test_nodes);
    return g_test_run();
}
