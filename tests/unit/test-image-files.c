/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The facts that a program needs to copy a disk by itself: the host files of the chain
 * and their state, the layers' clusters and errors, reads that are not cached, and
 * extents of a bounded length. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "qimg.h"
#include "test-util.h"

#define DISK_BYTES         (1u << 20)
#define BASE_CLUSTER_BYTES 4096u
#define TOP_CLUSTER_BYTES  65536u

typedef struct {
    char *dir;
    char *base;
    char *top; /* over base, with a data file */
    char *data;
    QimgImage *image;
} Files;

static void
make(const char *path, const char *const *properties)
{
    g_autoptr(QimgCreate) create = qimg_create_new();
    GError *error = NULL;

    for (; *properties; properties += 2)
        test_util_set_property(create, properties[0], properties[1]);
    qimg_create_run(create, path, NULL, NULL, &error);
    g_assert_no_error(error);
}

static QimgImage *
open_image(const char *path, const char *option)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    GError *error = NULL;
    QimgImage *image;

    if (option)
        qimg_options_set(options, option, NULL, &error);
    g_assert_no_error(error);
    image = qimg_image_open(path, options, &error);
    g_assert_no_error(error);
    return image;
}

/* The base is 7 in its first half. */
static void
files_set_up(Files *f)
{
    g_autofree uint8_t *bytes = g_malloc(DISK_BYTES / 2);
    QimgImage *base;

    f->dir = test_util_make_dir();
    f->base = g_build_filename(f->dir, "base.qcow2", NULL);
    f->top = g_build_filename(f->dir, "top.qcow2", NULL);
    f->data = g_build_filename(f->dir, "top.data", NULL);
    make(f->base, (const char *const[]){"size", "1M", "cluster_size", "4K", NULL, NULL});
    base = open_image(f->base, "rw");
    g_assert_false(qimg_image_is_constant(base));
    memset(bytes, 7, DISK_BYTES / 2);
    g_assert_cmpint(qimg_image_write(base, 0, bytes, DISK_BYTES / 2), ==, 0);
    qimg_image_close(base);
    make(f->top, (const char *const[]){"backing_file", "base.qcow2", "backing_fmt",
                                       "qcow2", "data_file", "top.data", NULL, NULL});
    f->image = open_image(f->top, NULL);
}

static void
files_tear_down(Files *f)
{
    qimg_image_close(f->image);
    g_free(f->base);
    g_free(f->top);
    g_free(f->data);
    test_util_remove_dir(f->dir);
}

/* The first bytes of the file at @path and behind @fd are the same. */
static void
check_descriptor(const QimgFile *file)
{
    g_autofree char *bytes = NULL;
    char found[64];
    size_t n_bytes;

    g_assert_true(g_file_get_contents(file->path, &bytes, &n_bytes, NULL));
    g_assert_cmpuint(file->size_bytes, ==, n_bytes);
    if (n_bytes < sizeof found)
        return;
    g_assert_cmpint(pread(file->fd, found, sizeof found, 0), ==, sizeof found);
    g_assert_cmpmem(found, sizeof found, bytes, sizeof found);
}

static void
test_files(void)
{
    Files f;
    QimgFile file = {.struct_bytes = sizeof file};
    QimgImage *layer;

    files_set_up(&f);
    const struct {
        const char *path;
        unsigned depth;
        bool is_data_file;
    } wanted[] = {{f.top, 0, false}, {f.data, 0, true}, {f.base, 1, false}};

    for (unsigned i = 0; i < G_N_ELEMENTS(wanted); i++) {
        struct stat status;

        g_assert_true(qimg_image_get_file(f.image, i, &file));
        g_assert_true(g_str_has_suffix(file.path, strrchr(wanted[i].path, '/')));
        g_assert_cmpuint(file.depth, ==, wanted[i].depth);
        g_assert_cmpint(file.is_data_file, ==, wanted[i].is_data_file);
        g_assert_cmpint(stat(wanted[i].path, &status), ==, 0);
        g_assert_true(file.status->st_ino == status.st_ino);
        g_assert_true(qimg_image_has_file(f.image, &status));
        check_descriptor(&file);
    }
    g_assert_false(qimg_image_get_file(f.image, G_N_ELEMENTS(wanted), &file));
    file.struct_bytes = 0;
    g_assert_false(qimg_image_get_file(f.image, 0, &file));

    /* A handle on a layer has the files from there down; none of the chain is foreign. */
    file.struct_bytes = sizeof file;
    layer = qimg_image_open_layer(f.image, 1, NULL);
    g_assert_true(qimg_image_get_file(layer, 0, &file));
    g_assert_cmpuint(file.depth, ==, 0);
    g_assert_true(g_str_has_suffix(file.path, "base.qcow2"));
    g_assert_false(qimg_image_get_file(layer, 1, &file));
    for (unsigned i = 0; i < G_N_ELEMENTS(wanted); i++) {
        struct stat status;

        g_assert_cmpint(stat(wanted[i].path, &status), ==, 0);
        g_assert_true(qimg_image_has_file(layer, &status));
    }
    qimg_image_close(layer);
    files_tear_down(&f);
}

static void
test_foreign_file(void)
{
    Files f;
    struct stat status;

    files_set_up(&f);
    g_assert_cmpint(stat(f.dir, &status), ==, 0);
    g_assert_false(qimg_image_has_file(f.image, &status));
    files_tear_down(&f);
}

static void
test_layers(void)
{
    Files f;
    QimgImage *part;

    files_set_up(&f);
    g_assert_true(qimg_image_is_constant(f.image));
    g_assert_cmpuint(qimg_image_get_layer_cluster_bytes(f.image, 0), ==,
                     TOP_CLUSTER_BYTES);
    g_assert_cmpuint(qimg_image_get_layer_cluster_bytes(f.image, 1), ==,
                     BASE_CLUSTER_BYTES);
    g_assert_cmpuint(qimg_image_get_layer_cluster_bytes(f.image, 2), ==, 0);
    g_assert_cmpuint(qimg_image_get_start_bytes(f.image), ==, 0);
    part = qimg_image_open_part(f.image, 1536, 8192, NULL);
    g_assert_cmpuint(qimg_image_get_start_bytes(part), ==, 1536);
    qimg_image_close(part);
    for (unsigned i = 0; i < 3; i++)
        g_assert_cmpint(qimg_image_get_layer_error(f.image, i), ==, 0);
    qimg_image_close(f.image);

    g_assert_cmpint(g_unlink(f.data), ==, 0);
    f.image = open_image(f.top, "inspect");
    g_assert_cmpint(qimg_image_get_layer_error(f.image, 0), ==, -ENOENT);
    files_tear_down(&f);
}

static void
test_read_with(void)
{
    static const unsigned flags[] = {0, QIMG_READ_ONCE};
    uint8_t bytes[2 * BASE_CLUSTER_BYTES];
    Files f;

    files_set_up(&f);
    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++) {
        uint64_t at = DISK_BYTES / 2 - BASE_CLUSTER_BYTES;

        memset(bytes, 1, sizeof bytes);
        g_assert_cmpint(qimg_image_read_with(f.image, at, bytes, sizeof bytes, flags[i]),
                        ==, 0);
        for (size_t j = 0; j < sizeof bytes; j++)
            g_assert_cmpuint(bytes[j], ==, j < BASE_CLUSTER_BYTES ? 7 : 0);
        g_assert_cmpint(qimg_image_read_with(f.image, DISK_BYTES - 1, bytes, 2, flags[i]),
                        ==, -EINVAL);
    }
    g_assert_cmpint(qimg_image_read_with(f.image, 0, bytes, 1, 1u << 31), ==, -EINVAL);
    files_tear_down(&f);
}

/* A read that does not wait; @expects_wait: without a look whether it has to. */
static void
test_read_unless_waiting(void)
{
    uint8_t bytes[BASE_CLUSTER_BYTES], again[BASE_CLUSTER_BYTES];
    uint64_t at = DISK_BYTES / 2 - BASE_CLUSTER_BYTES;
    QimgReadPlace place = {.struct_bytes = sizeof place, .fd = -1};
    struct statfs host;
    int err;
    Files f;

    files_set_up(&f);
    g_assert_cmpint(statfs(f.dir, &host), ==, 0);
    err = qimg_image_read_unless_waiting(f.image, at, bytes, sizeof bytes, true, &place);
    if (err) { /* not a directory in memory */
        g_assert_cmpint(err, ==, -EAGAIN);
        g_assert_cmpint(host.f_type, !=, TMPFS_MAGIC);
        g_assert_cmpuint(place.length_bytes, ==, sizeof bytes);
        g_assert_true(place.is_answer);
        g_assert_cmpint(qimg_image_end_read(f.image, &place), ==, 0);
        /* A part of a read, before zeros, is not the answer. */
        g_assert_cmpint(qimg_image_read_unless_waiting(f.image, DISK_BYTES / 2 - 512,
                                                       bytes, 1024, true, &place),
                        ==, -EAGAIN);
        g_assert_false(place.is_answer);
        g_assert_cmpint(qimg_image_end_read(f.image, &place), ==, -EINVAL);
        g_assert_cmpint(qimg_image_read_unless_waiting(f.image, at, bytes, sizeof bytes,
                                                       true, &place),
                        ==, -EAGAIN);
        /* The place has the bytes. */
        g_assert_cmpint(pread(place.fd, again, sizeof again, (off_t)place.file_offset),
                        ==, sizeof again);
        do /* they could leave the cache again */
            err = qimg_image_read_unless_waiting(f.image, at, bytes, sizeof bytes, false,
                                                 &place);
        while (err == -EAGAIN);
        g_assert_cmpmem(bytes, sizeof bytes, again, sizeof again);
    }
    g_assert_cmpint(err, ==, 0);
    for (size_t i = 0; i < sizeof bytes; i++)
        g_assert_cmpuint(bytes[i], ==, 7);
    /* Zeros and errors need no disk. */
    g_assert_cmpint(qimg_image_read_unless_waiting(f.image, DISK_BYTES / 2, bytes,
                                                   sizeof bytes, true, &place),
                    ==, 0);
    g_assert_cmpuint(bytes[0], ==, 0);
    g_assert_cmpint(
        qimg_image_read_unless_waiting(f.image, DISK_BYTES, bytes, 1, true, &place), ==,
        -EINVAL);
    /* The thread waits again. */
    g_assert_cmpint(qimg_image_read(f.image, at, bytes, sizeof bytes), ==, 0);
    g_assert_cmpuint(bytes[0], ==, 7);
    files_tear_down(&f);
}

static void
test_map_range(void)
{
    static const struct {
        uint64_t start, length, extent; /* length 0: refused */
        QimgExtentKind kind;
    } cases[] = {
        {0, 1, 1, QIMG_EXTENT_DATA},
        {0, 512, 512, QIMG_EXTENT_DATA},
        {1000, 5000, 5000, QIMG_EXTENT_DATA},
        {0, DISK_BYTES, DISK_BYTES / 2, QIMG_EXTENT_DATA},
        {DISK_BYTES / 2, UINT64_MAX, DISK_BYTES / 2, QIMG_EXTENT_UNALLOCATED},
        {DISK_BYTES / 2, 700, 700, QIMG_EXTENT_UNALLOCATED},
        {DISK_BYTES - 1, UINT64_MAX, 1, QIMG_EXTENT_UNALLOCATED},
        {0, 0, 0, QIMG_EXTENT_DATA},
        {DISK_BYTES, 1, 0, QIMG_EXTENT_DATA},
    };
    Files f;

    files_set_up(&f);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        QimgExtent extent = {.struct_bytes = sizeof extent};
        int err = qimg_image_map_range(f.image, cases[i].start, cases[i].length, &extent);

        g_assert_cmpint(err, ==, cases[i].extent ? 0 : -EINVAL);
        if (err)
            continue;
        g_assert_cmpuint(extent.guest_offset, ==, cases[i].start);
        g_assert_cmpuint(extent.length_bytes, ==, cases[i].extent);
        g_assert_cmpint(extent.kind, ==, cases[i].kind);
        g_assert_cmpuint(extent.depth, ==, 1);
    }
    files_tear_down(&f);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/image-files/files", test_files);
    g_test_add_func("/image-files/foreign-file", test_foreign_file);
    g_test_add_func("/image-files/layers", test_layers);
    g_test_add_func("/image-files/read-with", test_read_with);
    g_test_add_func("/image-files/read-unless-waiting", test_read_unless_waiting);
    g_test_add_func("/image-files/map-range", test_map_range);
    return g_test_run();
}
