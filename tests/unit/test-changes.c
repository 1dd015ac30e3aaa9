/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files that another program changes below an open image: a change is noticed by its
 * traces in their status; events that leave the content alone are not. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qimg.h"
#include "test-util.h"

#define N_BYTES 8192u

typedef struct {
    char *dir;
    char *path;
    QimgImage *image;
    struct stat status;
} Fixture;

/* The kernel's clock of files goes in steps: a change within the step in which a file was
 * created leaves the same time. */
static void
set_old_times(const char *path)
{
    const struct timespec times[2] = {{1000000000, 1}, {1000000000, 1}};

    g_assert_cmpint(utimensat(AT_FDCWD, path, times, 0), ==, 0);
}

/* Waits until the clock of files passes the ctime of @path. */
static void
pass_tick(const char *dir, const char *path)
{
    g_autofree char *probe = g_build_filename(dir, "tick", NULL);
    struct stat old, now;

    g_assert_cmpint(stat(path, &old), ==, 0);
    do {
        int fd = open(probe, O_CREAT | O_WRONLY | O_TRUNC, 0600);

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(fstat(fd, &now), ==, 0);
        close(fd);
        g_unlink(probe);
    } while (now.st_ctim.tv_sec == old.st_ctim.tv_sec &&
             now.st_ctim.tv_nsec == old.st_ctim.tv_nsec);
}

static void
set_up(Fixture *f, const char *option)
{
    g_autofree uint8_t *bytes = g_malloc0(N_BYTES);
    g_autoptr(QimgOptions) options = qimg_options_new();
    GError *error = NULL;

    f->dir = test_util_make_dir();
    f->path = test_util_write(f->dir, "disk.raw", bytes, N_BYTES);
    set_old_times(f->path);
    if (option)
        qimg_options_set(options, option, NULL, &error);
    g_assert_no_error(error);
    f->image = qimg_image_open(f->path, options, &error);
    g_assert_no_error(error);
    pass_tick(f->dir, f->path);
    g_assert_cmpint(stat(f->path, &f->status), ==, 0);
}

static void
tear_down(Fixture *f)
{
    qimg_image_close(f->image);
    g_free(f->path);
    test_util_remove_dir(f->dir);
}

static void
change_byte(const char *path)
{
    int fd = open(path, O_WRONLY);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, "x", 1, 100), ==, 1);
    close(fd);
}

static void
check_is_stale(Fixture *f)
{
    uint64_t found = 0;
    QimgExtent extent = {.struct_bytes = sizeof extent};
    uint8_t byte;

    g_assert_cmpstr(qimg_image_find_changed(f->image, TRUE), ==, f->path);
    g_assert_cmpstr(qimg_image_find_changed(f->image, FALSE), ==, f->path);
    g_assert_cmpint(qimg_image_read(f->image, 0, &byte, 1), ==, -EIO);
    g_assert_cmpint(qimg_image_map(f->image, 0, &extent), ==, -EIO);
    g_assert_cmpint(qimg_image_seek(f->image, 0, FALSE, &found), ==, -EIO);
}

static void
test_write(void)
{
    Fixture f;

    set_up(&f, NULL);
    g_assert_null(qimg_image_find_changed(f.image, TRUE));
    change_byte(f.path);
    check_is_stale(&f);
    tear_down(&f);
}

/* Its mtime is reset: the ctime stays. */
static void
test_write_with_old_time(void)
{
    Fixture f;

    set_up(&f, NULL);
    change_byte(f.path);
    set_old_times(f.path);
    check_is_stale(&f);
    tear_down(&f);
}

static void
test_length(void)
{
    Fixture f;

    set_up(&f, NULL);
    g_assert_cmpint(truncate(f.path, N_BYTES + 1), ==, 0);
    check_is_stale(&f);
    tear_down(&f);
}

static void
test_first_read_looks(void)
{
    uint8_t byte;
    Fixture f;

    set_up(&f, NULL);
    change_byte(f.path);
    g_assert_cmpint(qimg_image_read(f.image, 0, &byte, 1), ==, -EIO);
    tear_down(&f);
}

/* Names, links, owner and mode are not the content. */
static void
test_not_content(void)
{
    g_autofree char *other = NULL;
    uint8_t byte;
    Fixture f;

    set_up(&f, NULL);
    other = g_build_filename(f.dir, "other.raw", NULL);
    g_assert_cmpint(link(f.path, other), ==, 0);
    g_assert_null(qimg_image_find_changed(f.image, TRUE));
    pass_tick(f.dir, other);
    g_assert_cmpint(unlink(other), ==, 0);
    g_assert_null(qimg_image_find_changed(f.image, TRUE));
    pass_tick(f.dir, f.path);
    g_assert_cmpint(chmod(f.path, 0640), ==, 0);
    g_assert_null(qimg_image_find_changed(f.image, TRUE));
    pass_tick(f.dir, f.path);
    g_assert_cmpint(rename(f.path, other), ==, 0);
    g_assert_null(qimg_image_find_changed(f.image, TRUE));
    pass_tick(f.dir, other);
    g_assert_cmpint(unlink(other), ==, 0);
    g_assert_null(qimg_image_find_changed(f.image, TRUE));
    g_assert_cmpint(qimg_image_read(f.image, 0, &byte, 1), ==, 0);
    tear_down(&f);
}

/* With nolock others may write; with rw this process does. */
static void
test_not_watched(gconstpointer option)
{
    uint8_t byte = 1;
    Fixture f;

    set_up(&f, option);
    change_byte(f.path);
    g_assert_null(qimg_image_find_changed(f.image, TRUE));
    g_assert_cmpint(qimg_image_read(f.image, 100, &byte, 1), ==, 0);
    g_assert_cmpint(byte, ==, 'x');
    tear_down(&f);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/changes/write", test_write);
    g_test_add_func("/changes/write-with-old-time", test_write_with_old_time);
    g_test_add_func("/changes/length", test_length);
    g_test_add_func("/changes/first-read-looks", test_first_read_looks);
    g_test_add_func("/changes/not-content", test_not_content);
    g_test_add_data_func("/changes/nolock", "nolock", test_not_watched);
    g_test_add_data_func("/changes/rw", "rw", test_not_watched);
    return g_test_run();
}
