/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/open/overlay.c: the temporary overlay and the permanent one, over images of any
 * size; files that must not become an overlay; and that the image below stays as it
 * is. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image-builder.h"
#include "image/chain/handle.h"
#include "test-util.h"

#define MANY 300000u /* bytes: some clusters and a part of one */

typedef struct {
    char *dir;
    char *image; /* raw, of pattern bytes */
} Fixture;

static uint8_t
pattern(uint64_t offset)
{
    return (uint8_t)(1 + offset % 251);
}

/* Writes a raw image; returns its path. */
static char *
make_raw(const char *dir, const char *name, size_t n_bytes)
{
    g_autofree uint8_t *bytes = g_malloc(n_bytes + 1);

    for (size_t i = 0; i < n_bytes; i++)
        bytes[i] = pattern(i);
    return test_util_write(dir, name, bytes, n_bytes);
}

static void
fixture_set_up(Fixture *f, gconstpointer user)
{
    (void)user;
    f->dir = test_util_make_dir();
    f->image = make_raw(f->dir, "disk.img", MANY);
    g_setenv("TMPDIR", f->dir, TRUE);
}

static void
fixture_tear_down(Fixture *f, gconstpointer user)
{
    (void)user;
    g_unsetenv("TMPDIR");
    test_util_remove_dir(f->dir);
    g_free(f->image);
}

static QimgImage *
open_cow(const char *path, const char *format, const char *cow_path, GError **error)
{
    g_autoptr(QimgOptions) options = qimg_options_new();

    g_assert_true(qimg_options_set(options, "cow", cow_path, NULL));
    if (format)
        g_assert_true(qimg_options_set(options, "format", format, NULL));
    return qimg_image_open(path, options, error);
}

static QimgImage *
must_open(const char *path, const char *cow_path)
{
    GError *error = NULL;
    bool is_raw = g_str_has_suffix(path, ".img");
    QimgImage *image = open_cow(path, is_raw ? "raw" : NULL, cow_path, &error);

    g_assert_no_error(error);
    return image;
}

static unsigned
count_files(const char *dir_path)
{
    GDir *dir = g_dir_open(dir_path, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    g_dir_close(dir);
    return n;
}

/* Writes pieces that begin and end anywhere; @expected changes in the same way. */
static void
write_pieces(QimgImage *image, uint8_t *expected)
{
    static const struct {
        uint64_t offset;
        size_t n_bytes;
    } pieces[] = {{0, 1}, {5000, 70}, {65535, 2}, {131072, 65536}, {299000, 1000}};

    for (size_t i = 0; i < G_N_ELEMENTS(pieces); i++) {
        g_autofree uint8_t *bytes = g_malloc(pieces[i].n_bytes);

        memset(bytes, (int)(0xe0 + i), pieces[i].n_bytes);
        g_assert_cmpint(
            qimg_image_write(image, pieces[i].offset, bytes, pieces[i].n_bytes), ==, 0);
        memcpy(expected + pieces[i].offset, bytes, pieces[i].n_bytes);
    }
}

static void
check_content(QimgImage *image, const uint8_t *expected, size_t n_bytes)
{
    g_autofree uint8_t *bytes = g_malloc(n_bytes);

    g_assert_cmpint(qimg_image_read(image, 0, bytes, n_bytes), ==, 0);
    g_assert_cmpmem(bytes, n_bytes, expected, n_bytes);
}

static void
check_same_file(const char *path, const struct stat *before, const uint8_t *content)
{
    g_autofree char *bytes = NULL;
    struct stat after;
    gsize n_bytes;

    g_assert_cmpint(stat(path, &after), ==, 0);
    g_assert_cmpint(after.st_mtim.tv_sec, ==, before->st_mtim.tv_sec);
    g_assert_cmpint(after.st_mtim.tv_nsec, ==, before->st_mtim.tv_nsec);
    g_assert_cmpint(after.st_ctim.tv_nsec, ==, before->st_ctim.tv_nsec);
    g_assert_cmpint(after.st_atim.tv_nsec, ==, before->st_atim.tv_nsec);
    g_assert_cmpint(after.st_blocks, ==, before->st_blocks);
    g_assert_true(g_file_get_contents(path, &bytes, &n_bytes, NULL));
    g_assert_cmpmem(bytes, n_bytes, content, (size_t)before->st_size);
}

static void
test_vanishing(Fixture *f, gconstpointer user)
{
    g_autofree char *original = NULL;
    g_autofree uint8_t *expected = g_malloc(MANY);
    struct stat before, shown;
    QimgImage *image, *below;

    (void)user;
    g_assert_true(g_file_get_contents(f->image, &original, NULL, NULL));
    memcpy(expected, original, MANY);
    g_assert_cmpint(stat(f->image, &before), ==, 0);
    image = must_open(f->image, NULL);
    g_assert_cmpuint(count_files(f->dir), ==, 1);
    g_assert_true(qimg_image_is_writable(image));
    g_assert_cmpuint(qimg_image_get_n_layers(image), ==, 2);
    g_assert_cmpstr(qimg_image_get_layer_path(image, 1), ==, f->image);
    /* Rounded up to whole sectors. */
    g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, (MANY + 511) / 512 * 512);
    check_content(image, expected, MANY);
    write_pieces(image, expected);
    g_assert_cmpint(qimg_image_flush(image), ==, 0);
    check_content(image, expected, MANY);
    qimg_image_get_stat(image, &shown);
    g_assert_cmpuint(shown.st_ino, ==, before.st_ino);
    g_assert_cmpint(shown.st_mtim.tv_nsec, ==, before.st_mtim.tv_nsec);
    g_assert_cmpint(shown.st_blocks, >, before.st_blocks);
    below = qimg_image_open_layer(image, 1, NULL);
    g_assert_false(qimg_image_is_writable(below));
    check_content(below, (const uint8_t *)original, MANY);
    qimg_image_close(below);
    qimg_image_close(image);
    g_assert_cmpuint(count_files(f->dir), ==, 1);
    check_same_file(f->image, &before, (const uint8_t *)original);
    image = must_open(f->image, NULL);
    check_content(image, (const uint8_t *)original, MANY);
    qimg_image_close(image);
}

static void
test_kept(Fixture *f, gconstpointer user)
{
    g_autofree char *cow = g_build_filename(f->dir, "changes", NULL);
    g_autofree char *original = NULL;
    g_autofree uint8_t *expected = g_malloc(MANY);
    struct stat before, status;
    QimgImage *image, *overlay;
    mode_t old_mask = umask(0);
    GError *error = NULL;

    (void)user;
    g_assert_true(g_file_get_contents(f->image, &original, NULL, NULL));
    memcpy(expected, original, MANY);
    g_assert_cmpint(stat(f->image, &before), ==, 0);
    image = must_open(f->image, cow);
    umask(old_mask);
    g_assert_cmpint(stat(cow, &status), ==, 0);
    g_assert_cmpuint(status.st_mode, ==, S_IFREG | 0666);
    write_pieces(image, expected);
    check_content(image, expected, MANY);
    /* No other opener may use it meanwhile. */
    g_assert_null(open_cow(f->image, NULL, cow, &error));
    g_assert_error(error, QIMG_ERROR, QIMG_ERROR_LOCKED);
    g_clear_error(&error);
    qimg_image_close(image);

    image = must_open(f->image, cow);
    check_content(image, expected, MANY);
    g_assert_cmpint(qimg_image_write(image, 70000, "again", 5), ==, 0);
    memcpy(expected + 70000, "again", 5);
    qimg_image_close(image);
    /* An image like any other, whose backing file is found by its name. */
    overlay = qimg_image_open(cow, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(qimg_image_get_n_layers(overlay), ==, 2);
    g_assert_null(*qimg_image_get_warnings(overlay));
    check_content(overlay, expected, MANY);
    qimg_image_close(overlay);
    check_same_file(f->image, &before, (const uint8_t *)original);
}

/* The stored name of the backing file. */
static void
check_stored_name(const char *image_path, const char *cow_path, const char *name)
{
    g_autofree char *json = NULL;
    g_autofree char *member = g_strdup_printf("\"backing-filename\": \"%s\"", name);
    g_autoptr(QimgOptions) options = qimg_options_new();
    GError *error = NULL;
    QimgImage *image;

    qimg_image_close(must_open(image_path, cow_path));
    g_assert_true(qimg_options_set(options, "backing", "any", NULL));
    image = qimg_image_open(cow_path, options, &error);
    g_assert_no_error(error);
    json = qimg_image_info_json(image);
    if (!strstr(json, member) || !strstr(json, "\"backing-filename-format\": \"raw\""))
        g_error("no %s in %s", member, json);
    qimg_image_close(image);
    qimg_image_close(must_open(image_path, cow_path)); /* and is recognised */
    g_unlink(cow_path);
}

static void
test_names(Fixture *f, gconstpointer user)
{
    g_autofree char *here = g_build_filename(f->dir, "here", NULL);
    g_autofree char *other_dir = g_build_filename(f->dir, "other", NULL);
    g_autofree char *there = g_build_filename(other_dir, "there", NULL);
    g_autofree char *colon = make_raw(f->dir, "nbd:disk", 1024);
    g_autofree char *link = g_build_filename(other_dir, "link.img", NULL);
    g_autofree char *dir_link = g_build_filename(f->dir, "dir-link", NULL);
    g_autofree char *by_dir_link = g_build_filename(dir_link, "link.img", NULL);
    g_autofree char *old_dir = g_get_current_dir();
    g_autofree char *by_fd = NULL;
    int fd;

    (void)user;
    g_assert_cmpint(g_mkdir(other_dir, 0700), ==, 0);
    g_assert_cmpint(symlink(f->image, link), ==, 0);
    g_assert_cmpint(symlink("other", dir_link), ==, 0);
    check_stored_name(f->image, here, "disk.img");
    check_stored_name(colon, here, "./nbd:disk");
    check_stored_name(f->image, there, f->image);
    check_stored_name(link, here, link);
    check_stored_name(link, there, "link.img");
    check_stored_name(by_dir_link, there, "link.img");
    check_stored_name(by_dir_link, here, link); /* the real directory */
    g_assert_cmpint(chdir(other_dir), ==, 0);
    check_stored_name("../disk.img", "../here", "disk.img");
    check_stored_name("../disk.img", "there", f->image);
    g_assert_cmpint(chdir(old_dir), ==, 0);
    fd = open(f->image, O_RDONLY);
    by_fd = g_strdup_printf("/proc/self/fd/%d", fd);
    check_stored_name(by_fd, here, f->image);
    g_assert_cmpint(close(fd), ==, 0);
    g_assert_cmpint(g_unlink(link), ==, 0);
    g_assert_cmpint(g_rmdir(other_dir), ==, 0);
}

/* ---- refusals ---- */

#define STRANGER                                                                         \
    ", so that it is no overlay of this image, and it is left as it is (give the name "  \
    "of a new file, or of an overlay of this image)"

/* Writes a qcow2 image with @backing and @format (both may be NULL) as @path. */
static void
make_qcow2(const char *path, const char *backing, const char *format, bool data_file)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 16, 4096, false);

    if (backing)
        image_builder_set_backing(b, backing, format);
    if (data_file) {
        b->header.incompatible_features |= 4;
        image_builder_add_extension(b, 0x44415441, "data", 4);
    }
    image_builder_finish(b);
    g_assert_true(g_file_set_contents(path, (const char *)b->bytes->data,
                                      (gssize)b->bytes->len, NULL));
}

static void
put_empty(const char *path)
{
    g_assert_true(g_file_set_contents(path, "", 0, NULL));
}

static void
put_text(const char *path)
{
    g_assert_true(g_file_set_contents(path, "notes", -1, NULL));
}

static void
put_qcow2(const char *path)
{
    make_qcow2(path, NULL, NULL, false);
}

static void
put_other_overlay(const char *path)
{
    make_qcow2(path, "other.img", "raw", false);
}

static void
put_lost_overlay(const char *path)
{
    make_qcow2(path, "no\nsuch", "raw", false);
}

static void
put_other_format(const char *path)
{
    make_qcow2(path, "disk.img", "qcow2", false);
}

static void
put_other_json_format(const char *path)
{
    make_qcow2(path, "json:{\"driver\":\"qcow2\",\"file.filename\":\"disk.img\"}", NULL,
               false);
}

static void
put_data_file(const char *path)
{
    make_qcow2(path, "disk.img", "raw", true);
}

static void
put_graph(const char *path)
{
    make_qcow2(path, "json:{}", "raw", false);
}

static void
put_dir(const char *path)
{
    g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
}

static void
put_fifo(const char *path)
{
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
}

static void
put_image_link(const char *path)
{
    g_assert_cmpint(symlink("disk.img", path), ==, 0);
}

static void
put_image_hard_link(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *image = g_build_filename(dir, "disk.img", NULL);

    g_assert_cmpint(link(image, path), ==, 0);
}

static void
put_dangling_link(const char *path)
{
    g_assert_cmpint(symlink("nothing", path), ==, 0);
}

static const struct {
    const char *name;
    void (*put)(const char *path);
    int code;
    const char *error; /* without the prefix: overlay "FILE": */
} refusals[] = {
    {"empty", put_empty, QIMG_ERROR_REFUSED, "is no qcow2 image" STRANGER},
    {"text", put_text, QIMG_ERROR_REFUSED, "is no qcow2 image" STRANGER},
    {"qcow2", put_qcow2, QIMG_ERROR_REFUSED, "has no backing file" STRANGER},
    {"other-overlay", put_other_overlay, QIMG_ERROR_REFUSED,
     "its backing file is \"other.img\"" STRANGER},
    {"lost-overlay", put_lost_overlay, QIMG_ERROR_REFUSED,
     "its backing file is \"no\\nsuch\"" STRANGER},
    {"other-format", put_other_format, QIMG_ERROR_REFUSED,
     "says that the image is of format \"qcow2\", and it was opened as raw (give -o "
     "format=)"},
    {"other-json-format", put_other_json_format, QIMG_ERROR_REFUSED,
     "says that the image is of format \"qcow2\", and it was opened as raw (give -o "
     "format=)"},
    {"data-file", put_data_file, QIMG_ERROR_REFUSED,
     "has an external data file" STRANGER},
    {"graph", put_graph, QIMG_ERROR_REFUSED,
     "backing file name json:…: it names no file (only a format over a plain file can "
     "be opened; store a plain name with qemu-img rebase -u)"},
    {"directory", put_dir, QIMG_ERROR_REFUSED,
     "is no regular file (give the name of a new file)"},
    {"fifo", put_fifo, QIMG_ERROR_REFUSED,
     "is no regular file (give the name of a new file)"},
    {"image-link", put_image_link, QIMG_ERROR_REFUSED,
     "is a file of the image itself (give the name of a new file)"},
    {"image-hard-link", put_image_hard_link, QIMG_ERROR_REFUSED,
     "is a file of the image itself (give the name of a new file)"},
    {"dangling-link", put_dangling_link, QIMG_ERROR_FAILED,
     "cannot be made: File exists (give a name in a directory of yours that has space)"},
};

/* A refused file stays as it is. */
static void
test_refusals(Fixture *f, gconstpointer user)
{
    g_autofree char *other = make_raw(f->dir, "other.img", 4096);
    g_autofree char *cow = g_build_filename(f->dir, "file", NULL);

    (void)user;
    g_assert_nonnull(other); /* some of the refusals name it */
    for (size_t i = 0; i < G_N_ELEMENTS(refusals); i++) {
        g_autofree char *text =
            g_strdup_printf("overlay \"%s\": %s", cow, refusals[i].error);
        g_autofree char *content = NULL;
        struct stat before, after;
        GError *error = NULL;
        gsize n_bytes = 0;

        g_test_message("%s", refusals[i].name);
        refusals[i].put(cow);
        g_assert_cmpint(lstat(cow, &before), ==, 0);
        if (S_ISREG(before.st_mode))
            g_file_get_contents(cow, &content, &n_bytes, NULL);
        g_assert_null(open_cow(f->image, "raw", cow, &error));
        test_util_check_error(&error, refusals[i].code, text);
        g_assert_cmpint(lstat(cow, &after), ==, 0);
        g_assert_cmpuint(after.st_ino, ==, before.st_ino);
        g_assert_cmpint(after.st_mtim.tv_nsec, ==, before.st_mtim.tv_nsec);
        g_assert_cmpint(after.st_size, ==, before.st_size);
        if (content) {
            g_autofree char *now = NULL;
            gsize n_now = 0;

            g_assert_true(g_file_get_contents(cow, &now, &n_now, NULL));
            g_assert_cmpmem(now, n_now, content, n_bytes);
        }
        g_assert_cmpint(remove(cow), ==, 0);
    }
}

/* Any file of the chain is the image's own. */
static void
test_backing_file_as_overlay(Fixture *f, gconstpointer user)
{
    g_autofree char *top = g_build_filename(f->dir, "top.qcow2", NULL);
    g_autofree char *text = g_strdup_printf(
        "overlay \"%s\": is a file of the image itself (give the name of a new file)",
        f->image);
    GError *error = NULL;

    (void)user;
    make_qcow2(top, "disk.img", "raw", false);
    g_assert_null(open_cow(top, NULL, f->image, &error));
    test_util_check_error(&error, QIMG_ERROR_REFUSED, text);
}

static void
test_places(Fixture *f, gconstpointer user)
{
    g_autofree char *cow = g_build_filename(f->dir, "no", "such", NULL);
    g_autofree char *below_file = g_build_filename(f->image, "x", NULL);
    g_autofree char *missing = g_build_filename(f->dir, "missing", NULL);
    g_autofree char *text =
        g_strdup_printf("overlay \"%s\": cannot be made: No such file or directory (give "
                        "a name in a directory of yours that has space)",
                        cow);
    g_autofree char *text_below =
        g_strdup_printf("overlay \"%s\": cannot be looked at: Not a directory (give a "
                        "name in a directory of yours that has space)",
                        below_file);
    g_autofree char *text_missing = g_strdup_printf(
        "overlay in \"%s\": cannot make a file: No such file or directory (set TMPDIR to "
        "a directory with space for all that will be written, or give -o cow=FILE)",
        missing);
    GError *error = NULL;

    (void)user;
    g_assert_null(open_cow(f->image, NULL, cow, &error));
    test_util_check_error(&error, QIMG_ERROR_NOT_FOUND, text);
    g_assert_null(open_cow(f->image, NULL, below_file, &error));
    test_util_check_error(&error, QIMG_ERROR_FAILED, text_below);
    g_setenv("TMPDIR", missing, TRUE);
    g_assert_null(open_cow(f->image, NULL, NULL, &error));
    test_util_check_error(&error, QIMG_ERROR_NOT_FOUND, text_missing);
    g_setenv("TMPDIR", f->dir, TRUE);
    g_assert_cmpuint(count_files(f->dir), ==, 1);
}

/* A file that cannot be written whole is removed: here for lack of room. */
static void
test_half_made(Fixture *f, gconstpointer user)
{
    g_autofree char *cow = g_build_filename(f->dir, "changes", NULL);
    g_autofree char *text =
        g_strdup_printf("overlay \"%s\": cannot write the new image: File too large "
                        "(give a name in a directory of yours that has space)",
                        cow);
    g_autofree char *text_vanishing = g_strdup_printf(
        "overlay in \"%s\": cannot write the new image: File too large (set TMPDIR to a "
        "directory with space for all that will be written, or give -o cow=FILE)",
        f->dir);
    struct rlimit old, small;
    GError *error = NULL, *error_vanishing = NULL;

    (void)user;
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    small = old;
    small.rlim_cur = 100000;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &small), ==, 0);
    g_assert_null(open_cow(f->image, NULL, cow, &error));
    g_assert_null(open_cow(f->image, NULL, NULL, &error_vanishing));
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    test_util_check_error(&error, QIMG_ERROR_FAILED, text);
    test_util_check_error(&error_vanishing, QIMG_ERROR_FAILED, text_vanishing);
    g_assert_cmpuint(count_files(f->dir), ==, 1);
}

/* ---- sizes ---- */

static void
test_sizes(Fixture *f, gconstpointer user)
{
    static const struct {
        size_t n_bytes;
        uint64_t disk_bytes;
    } cases[] = {{0, 0}, {1, 512}, {511, 512}, {512, 512}, {513, 1024}, {65537, 66048}};

    (void)user;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = make_raw(f->dir, "sized.img", cases[i].n_bytes);
        g_autofree uint8_t *expected = g_malloc0(cases[i].disk_bytes + 4096);
        bool is_odd = cases[i].n_bytes != cases[i].disk_bytes;
        const char *const *warnings;
        QimgImage *image;

        for (size_t j = 0; j < cases[i].n_bytes; j++)
            expected[j] = pattern(j);
        image = must_open(path, NULL);
        g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, cases[i].disk_bytes);
        check_content(image, expected, cases[i].disk_bytes);
        warnings = qimg_image_get_warnings(image);
        if (is_odd) {
            g_autofree char *text = g_strdup_printf(
                "%s: its size of %zu bytes is no multiple of a sector: with -o cow the "
                "disk has %" G_GUINT64_FORMAT " bytes, the last ones zeros",
                path, cases[i].n_bytes, (guint64)cases[i].disk_bytes);

            g_assert_cmpstr(warnings[0], ==, text);
        } else {
            g_assert_null(warnings[0]);
        }
        /* The disk grows as any other. */
        g_assert_cmpint(qimg_image_write(image, cases[i].disk_bytes + 3000, "end", 3), ==,
                        0);
        memcpy(expected + cases[i].disk_bytes + 3000, "end", 3);
        check_content(image, expected, cases[i].disk_bytes + 3003);
        qimg_image_close(image);
    }
}

/* The chain below is that of the image, and its own format is recorded. */
static void
test_over_chain(Fixture *f, gconstpointer user)
{
    g_autofree char *top = g_build_filename(f->dir, "top.qcow2", NULL);
    g_autofree char *cow = g_build_filename(f->dir, "changes", NULL);
    g_autofree char *json = NULL;
    uint8_t expected[4096];
    QimgImage *image;

    (void)user;
    make_qcow2(top, "disk.img", "raw", false);
    for (size_t i = 0; i < sizeof expected; i++)
        expected[i] = pattern(i);
    for (unsigned i = 0; i < 2; i++) {
        image = must_open(top, i ? cow : NULL);
        g_assert_cmpuint(qimg_image_get_n_layers(image), ==, 3);
        check_content(image, expected, sizeof expected);
        g_assert_cmpint(qimg_image_write(image, 100, "xyz", 3), ==, 0);
        memcpy(expected + 100, "xyz", 3);
        check_content(image, expected, sizeof expected);
        memset(expected + 100, 0, 3);
        for (size_t j = 100; j < 103; j++)
            expected[j] = pattern(j);
        qimg_image_close(image);
    }
    image = must_open(top, cow);
    json = qimg_image_info_json(image);
    g_assert_nonnull(strstr(json, "\"backing-filename\": \"top.qcow2\""));
    g_assert_nonnull(strstr(json, "\"backing-filename-format\": \"qcow2\""));
    qimg_image_close(image);
}

int
main(int argc, char **argv)
{
#define ADD(name, function)                                                              \
    g_test_add("/overlay/" name, Fixture, NULL, fixture_set_up, function,                \
               fixture_tear_down)
    test_util_init(&argc, &argv);
    ADD("vanishing", test_vanishing);
    ADD("kept", test_kept);
    ADD("names", test_names);
    ADD("refusals", test_refusals);
    ADD("backing-file-as-overlay", test_backing_file_as_overlay);
    ADD("places", test_places);
    ADD("half-made", test_half_made);
    ADD("sizes", test_sizes);
    ADD("over-chain", test_over_chain);
    return g_test_run();
}
