/* SPDX-License-Identifier: GPL-2.0-or-later */
/* storage/new-file.c: the file under a name before, during and after the creation. */
#include <errno.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/new-file.h"
#include "test-util.h"

static unsigned
count_files(const char *dir)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(d))
        n++;
    g_dir_close(d);
    return n;
}

static void
check_content(const char *path, const char *expected)
{
    g_autofree char *content = NULL;
    gsize n_bytes;

    g_assert_true(g_file_get_contents(path, &content, &n_bytes, NULL));
    g_assert_cmpmem(content, n_bytes, expected, strlen(expected));
}

/* Creates @path with the content "new"; NULL if that fails with @err. */
static QimgNewFile *
make(const char *path, bool replaces, QimgErrno err)
{
    QimgNewFile *file = NULL;
    int fd = -1;

    g_assert_cmpint(qimg_new_file_make(path, 0600, replaces, &file, &fd), ==, err);
    g_assert_true((file == NULL) == (err != 0));
    if (!file)
        return NULL;
    g_assert_cmpint(write(fd, "new", 3), ==, 3);
    close(fd);
    return file;
}

static void
test_keep(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = g_build_filename(dir, "file", NULL);
    QimgNewFile *file = make(path, false, 0);

    g_assert_cmpint(qimg_new_file_keep(file), ==, 0);
    qimg_new_file_free(file);
    check_content(path, "new");
    qimg_new_file_free(make(path, false, -EEXIST));
    g_assert_cmpuint(count_files(dir), ==, 1);
    test_util_remove_dir(dir);
}

static void
test_abandon(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = g_build_filename(dir, "file", NULL);
    g_autofree char *below = g_build_filename(path, "file", NULL);
    g_autofree char *slash = g_strconcat(path, "/", NULL);
    QimgNewFile *file;

    qimg_new_file_free(make(path, false, 0));
    qimg_new_file_free(make(path, true, 0)); /* nothing to replace */
    g_assert_null(make(below, false, -ENOENT));
    g_assert_null(make(slash, false, -ENOENT));
    g_assert_cmpuint(count_files(dir), ==, 0);
    /* Another file that has taken the name is not ours to remove. */
    file = make(path, false, 0);
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_free(test_util_write(dir, "file", "other", 5));
    qimg_new_file_free(file);
    check_content(path, "other");
    test_util_remove_dir(dir);
}

static void
test_replace(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = test_util_write(dir, "file", "old", 3);
    g_autofree char *link = g_build_filename(dir, "link", NULL);
    g_autofree char *dangling = g_build_filename(dir, "dangling", NULL);
    struct stat status;
    QimgNewFile *file;

    g_assert_cmpint(symlink("file", link), ==, 0);
    g_assert_cmpint(symlink("nowhere", dangling), ==, 0);
    qimg_new_file_free(make(path, true, 0));
    check_content(path, "old");
    file = make(link, true, 0);
    check_content(path, "old"); /* until the end */
    g_assert_cmpint(qimg_new_file_keep(file), ==, 0);
    qimg_new_file_free(file);
    check_content(path, "new");
    g_assert_cmpint(lstat(link, &status), ==, 0);
    g_assert_true(S_ISLNK(status.st_mode));
    g_assert_null(make(dangling, true, -EEXIST));
    g_assert_null(make(dir, true, -EEXIST)); /* a directory */
    g_assert_cmpuint(count_files(dir), ==, 3);
    test_util_remove_dir(dir);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/new-file/keep", test_keep);
    g_test_add_func("/new-file/abandon", test_abandon);
    g_test_add_func("/new-file/replace", test_replace);
    return g_test_run();
}
