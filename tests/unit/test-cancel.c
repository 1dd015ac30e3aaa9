/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Long calls that their caller cancels: each call is canceled at its first step, then at
 * its second, and so on until it completes, and leaves the state promised by qimg.h each
 * time. */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "test-util.h"

#define KIB          1024u
#define DISK_BYTES   (64 * KIB)
#define GROWN_BYTES  (6 * KIB * KIB)
#define LARGE_BYTES  (17 * KIB * KIB) /* three steps of counting, with small clusters */
#define REFTABLE_AT  512u /* in an image with clusters of 512 bytes made by qimg */
#define FIRST_BLOCK  1024u
#define MAX_ATTEMPTS 100000u

/* Cancels at the call of that number. */
typedef struct {
    unsigned n_calls;
    unsigned last_call;
    uint64_t done, total;
    unsigned n_passes;
} Canceler;

static gboolean
count_and_cancel(uint64_t done, uint64_t total, void *user)
{
    Canceler *c = user;

    g_assert_cmpuint(done, <=, total);
    g_assert_cmpuint(c->n_calls, <, c->last_call); /* none after FALSE */
    if (c->n_passes == 0 || done < c->done || total != c->total)
        c->n_passes++;
    c->done = done;
    c->total = total;
    return ++c->n_calls < c->last_call;
}

typedef struct {
    char *dir;
    char *path;
} Fixture;

static void
make_image(Fixture *f, const char *cluster_size)
{
    g_autoptr(QimgCreate) create = qimg_create_new();
    GError *error = NULL;

    f->dir = test_util_make_dir();
    f->path = g_build_filename(f->dir, "image", NULL);
    test_util_set_property(create, "size", "64K");
    test_util_set_property(create, "cluster_size", cluster_size);
    qimg_create_run(create, f->path, NULL, NULL, &error);
    g_assert_no_error(error);
}

static void
fixture_clear(Fixture *f)
{
    g_free(f->path);
    test_util_remove_dir(f->dir);
}

static QimgImage *
open_image(const Fixture *f, bool for_writing)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    GError *error = NULL;
    QimgImage *image;

    if (for_writing)
        qimg_options_set(options, "rw", NULL, &error);
    g_assert_no_error(error);
    image = qimg_image_open(f->path, options, &error);
    g_assert_no_error(error);
    return image;
}

static void
fill(QimgImage *image, uint64_t start, uint64_t end, uint8_t value)
{
    g_autofree uint8_t *bytes = g_malloc(end - start);

    memset(bytes, value, end - start);
    g_assert_cmpint(qimg_image_write(image, start, bytes, end - start), ==, 0);
}

static void
check_filled(QimgImage *image, uint64_t start, uint64_t end, uint8_t value)
{
    g_autofree uint8_t *bytes = g_malloc(end - start);

    g_assert_cmpint(qimg_image_read(image, start, bytes, end - start), ==, 0);
    for (uint64_t i = 0; i < end - start; i++)
        g_assert_cmpuint(bytes[i], ==, value);
}

static uint64_t
count_faults(const Fixture *f)
{
    GError *error = NULL;
    g_autoptr(QimgCheckResult) result =
        qimg_check(f->path, NULL, QIMG_REPAIR_NONE, NULL, NULL, &error);

    g_assert_no_error(error);
    return result->n_corruptions + result->n_leaks + result->n_check_errors;
}

/* ---- creation ---- */

static unsigned
count_files(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    return n;
}

/* Nothing is left of the new image, and the file to be replaced is as it was. */
static void
test_create(void)
{
    static const char *const properties[][2] = {{"preallocation", "full"},
                                                {"preallocation", "falloc"},
                                                {"preallocation", "metadata"},
                                                {"data_file", "data"},
                                                {"format", "raw"}};
    Fixture f;

    make_image(&f, "512");
    for (size_t i = 0; i < G_N_ELEMENTS(properties); i++) {
        g_autofree char *path = g_build_filename(f.dir, "new", NULL);
        g_autofree char *data_path = g_build_filename(f.dir, "data", NULL);
        g_autoptr(QimgCreate) create = qimg_create_new();
        unsigned n_canceled = 0;
        bool is_made = false;

        test_util_set_property(create, "size", "20M");
        test_util_set_property(create, "preallocation", "full");
        test_util_set_property(create, properties[i][0], properties[i][1]);
        test_util_set_property(create, "force", NULL);
        g_free(test_util_write(f.dir, "new", "as it was", 9));
        while (!is_made) {
            Canceler c = {.last_call = n_canceled + 1};
            g_autofree char *content = NULL;
            GError *error = NULL;

            is_made = qimg_create_run(create, path, count_and_cancel, &c, &error);
            if (is_made)
                break;
            g_assert_error(error, QIMG_ERROR, QIMG_ERROR_CANCELED);
            g_clear_error(&error);
            n_canceled++;
            g_assert_cmpuint(n_canceled, <, MAX_ATTEMPTS);
            g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
            g_assert_cmpstr(content, ==, "as it was");
            g_assert_cmpuint(count_files(f.dir), ==, 2);
        }
        g_test_message("%s: canceled %u times", properties[i][1], n_canceled);
        g_assert_cmpuint(n_canceled, >, 0);
        g_unlink(path);
        g_unlink(data_path);
    }
    fixture_clear(&f);
}

/* ---- resizing ---- */

/* The disk has its old size and content, and nothing is leaked. */
static void
test_grow(void)
{
    for (int mode = QIMG_PREALLOCATION_METADATA; mode <= QIMG_PREALLOCATION_FULL;
         mode++) {
        unsigned n_canceled = 0;
        QimgImage *image;
        Fixture f;

        make_image(&f, "4096");
        for (;;) {
            Canceler c = {.last_call = n_canceled + 1};
            int err;

            image = open_image(&f, true);
            fill(image, 0, DISK_BYTES, (uint8_t)(n_canceled + 1));
            err = qimg_image_grow(image, GROWN_BYTES, (QimgPreallocation)mode,
                                  count_and_cancel, &c);
            if (err == 0)
                break;
            g_assert_cmpint(err, ==, -ECANCELED);
            g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, DISK_BYTES);
            check_filled(image, 0, DISK_BYTES, (uint8_t)(n_canceled + 1));
            qimg_image_close(image);
            g_assert_cmpuint(count_faults(&f), ==, 0);
            n_canceled++;
            g_assert_cmpuint(n_canceled, <, MAX_ATTEMPTS);
        }
        g_assert_cmpuint(n_canceled, >, 1);
        g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, GROWN_BYTES);
        check_filled(image, 0, DISK_BYTES, (uint8_t)(n_canceled + 1));
        check_filled(image, DISK_BYTES, GROWN_BYTES, 0);
        qimg_image_close(image);
        g_assert_cmpuint(count_faults(&f), ==, 0);
        fixture_clear(&f);
    }
}

/* ---- snapshots ---- */

typedef enum {
    CREATE,
    DELETE,
    REVERT,
} Change;

static bool
change(QimgImage *image, Change what, Canceler *c, GError **error)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(image);
    uint32_t serial = what == CREATE ? 0 : qimg_snapshots_get(list, 0)->serial;

    switch (what) {
    case CREATE:
        return qimg_image_create_snapshot(image, "new", count_and_cancel, c, error);
    case DELETE:
        return qimg_image_delete_snapshot(image, serial, count_and_cancel, c, error);
    default:
        return qimg_image_revert_to_snapshot(image, serial, count_and_cancel, c, error);
    }
}

static unsigned
count_snapshots(QimgImage *image)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(image);

    return qimg_snapshots_get_n(list);
}

/* Nothing has changed: the list, the disk, the snapshot's disk, refcounts. */
static void
test_snapshots(void)
{
    for (int what = CREATE; what <= REVERT; what++) {
        unsigned n_canceled = 0;
        QimgImage *image;
        GError *error = NULL;
        Fixture f;

        make_image(&f, "512");
        image = open_image(&f, true);
        /* Large enough for several steps in each pass. */
        g_assert_cmpint(qimg_image_resize(image, LARGE_BYTES, NULL, NULL), ==, 0);
        fill(image, 0, LARGE_BYTES, 1);
        qimg_image_create_snapshot(image, "old", NULL, NULL, &error);
        g_assert_no_error(error);
        fill(image, 0, DISK_BYTES, 2);
        for (;;) {
            Canceler c = {.last_call = n_canceled + 1};
            g_autoptr(QimgImage) old = NULL;

            if (change(image, (Change)what, &c, &error))
                break;
            g_assert_error(error, QIMG_ERROR, QIMG_ERROR_CANCELED);
            g_assert_nonnull(strstr(error->message, "was canceled, and nothing has"));
            g_clear_error(&error);
            n_canceled++;
            g_assert_cmpuint(n_canceled, <, MAX_ATTEMPTS);
            g_assert_cmpuint(count_snapshots(image), ==, 1);
            check_filled(image, 0, DISK_BYTES, 2);
            old = qimg_image_open_snapshot(image, 0, &error);
            g_assert_no_error(error);
            check_filled(old, 0, DISK_BYTES, 1);
            g_assert_cmpint(qimg_image_flush(image), ==, 0);
        }
        g_assert_cmpuint(n_canceled, >, 1);
        g_assert_cmpuint(count_snapshots(image), ==,
                         what == CREATE   ? 2
                         : what == DELETE ? 0
                                          : 1);
        check_filled(image, 0, DISK_BYTES, what == REVERT ? 1 : 2);
        qimg_image_close(image);
        g_assert_cmpuint(count_faults(&f), ==, 0);
        fixture_clear(&f);
    }
}

/* ---- resizing ---- */

static void
set_random_parts(QimgImage *image, uint64_t size_bytes)
{
    for (uint64_t at = 0; at < size_bytes; at += size_bytes / 16)
        fill(image, at, at + DISK_BYTES, 5);
}

/* The disk has its new size, keeps its content, and has zeros where it grows again. */
static void
test_shrink(void)
{
    unsigned n_canceled = 0;
    bool is_done = false;

    while (!is_done) {
        Canceler c = {.last_call = n_canceled + 1};
        QimgImage *image;
        Fixture f;
        int err;

        make_image(&f, "512");
        image = open_image(&f, true);
        g_assert_cmpint(qimg_image_resize(image, LARGE_BYTES, NULL, NULL), ==, 0);
        set_random_parts(image, LARGE_BYTES);
        /* No multiple of a sector. */
        err = qimg_image_resize(image, DISK_BYTES - 100, count_and_cancel, &c);
        is_done = err == 0;
        if (!is_done)
            g_assert_cmpint(err, ==, -ECANCELED);
        n_canceled += !is_done;
        g_assert_cmpuint(n_canceled, <, MAX_ATTEMPTS);
        g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, DISK_BYTES);
        check_filled(image, 0, DISK_BYTES - 100, 5);
        check_filled(image, DISK_BYTES - 100, DISK_BYTES, 0);
        if (n_canceled % 2 == 0) {
            g_assert_cmpint(qimg_image_resize(image, LARGE_BYTES, NULL, NULL), ==, 0);
            check_filled(image, DISK_BYTES - 100, LARGE_BYTES, 0);
        }
        qimg_image_close(image);
        g_assert_cmpuint(count_faults(&f), ==, 0);
        fixture_clear(&f);
        n_canceled += is_done ? 0 : 30; /* there are 500 tables */
    }
    g_assert_cmpuint(n_canceled, >, 1);
}

/* A disk that has entries behind its end, from a canceled shrinking, is as small as
 * before if its growth is canceled. */
static void
test_resize_to_grow(void)
{
    Canceler c = {.last_call = 1};
    QimgImage *image;
    Fixture f;

    make_image(&f, "512");
    image = open_image(&f, true);
    g_assert_cmpint(qimg_image_resize(image, LARGE_BYTES, NULL, NULL), ==, 0);
    fill(image, 0, LARGE_BYTES, 6);
    g_assert_cmpint(qimg_image_resize(image, DISK_BYTES, count_and_cancel, &c), ==,
                    -ECANCELED);
    c.n_calls = 0;
    g_assert_cmpint(qimg_image_resize(image, LARGE_BYTES, count_and_cancel, &c), ==,
                    -ECANCELED);
    g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, DISK_BYTES);
    check_filled(image, 0, DISK_BYTES, 6);
    c.n_calls = 0;
    g_assert_cmpint(
        qimg_image_grow(image, LARGE_BYTES, QIMG_PREALLOCATION_OFF, count_and_cancel, &c),
        ==, -ECANCELED);
    g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, DISK_BYTES);
    g_assert_cmpint(qimg_image_resize(image, LARGE_BYTES, NULL, NULL), ==, 0);
    check_filled(image, 0, DISK_BYTES, 6);
    check_filled(image, DISK_BYTES, LARGE_BYTES, 0);
    qimg_image_close(image);
    g_assert_cmpuint(count_faults(&f), ==, 0);
    fixture_clear(&f);
}

/* ---- bitmaps ---- */

static bool
change_one(QimgImage *image, const char *name, QimgBitmapAction action, Canceler *c,
           GError **error)
{
    const QimgBitmapAction *actions[] = {&action};

    action.struct_bytes = sizeof action;
    return qimg_image_change_bitmaps(image, name, actions, 1, c ? count_and_cancel : NULL,
                                     c, error);
}

/* Whether the bitmap is dirty at the start of the disk. */
static bool
is_dirty_at_start(QimgImage *image, const char *name)
{
    GError *error = NULL;
    g_autoptr(QimgBitmaps) list = qimg_image_read_bitmaps(image, &error);
    g_autoptr(QimgBitmapReader) reader = NULL;
    QimgBitmapExtent extent = {.struct_bytes = sizeof extent};
    unsigned place = 0;

    g_assert_no_error(error);
    g_assert_true(qimg_bitmaps_find(list, name, &place, &error));
    reader = qimg_bitmap_reader_new(image, list, place);
    g_assert_cmpint(qimg_bitmap_reader_map(reader, 0, &extent), ==, 0);
    return extent.is_dirty;
}

/* A bitmap "from" with bits in several clusters, and a clean one "to", of an image with
 * clusters of 512 bytes, which hold the bits of 2 MiB. */
static QimgImage *
open_with_bitmaps(Fixture *f, bool is_source)
{
    GError *error = NULL;
    QimgBitmapAction add = {.kind = QIMG_BITMAP_ADD, .granularity_bytes = 512};
    QimgBitmapAction disable = {.kind = QIMG_BITMAP_DISABLE};
    QimgImage *image;

    make_image(f, "512");
    image = open_image(f, true);
    g_assert_cmpint(qimg_image_resize(image, LARGE_BYTES, NULL, NULL), ==, 0);
    change_one(image, "from", add, NULL, &error);
    g_assert_no_error(error);
    if (is_source)
        set_random_parts(image, LARGE_BYTES);
    change_one(image, "from", disable, NULL, &error);
    g_assert_no_error(error);
    change_one(image, "to", add, NULL, &error);
    g_assert_no_error(error);
    return image;
}

/* Neither a bitmap nor a refcount has changed, also if the source is another image. */
static void
test_merge(void)
{
    for (int from_other = 0; from_other < 2; from_other++) {
        unsigned n_canceled = 0;
        GError *error = NULL;
        Fixture f, other;
        QimgImage *image = open_with_bitmaps(&f, !from_other);
        QimgImage *source = open_with_bitmaps(&other, true);
        QimgBitmapAction merge = {.kind = QIMG_BITMAP_MERGE, .source = "from"};

        merge.source_image = from_other ? source : NULL;
        for (;;) {
            Canceler c = {.last_call = n_canceled + 1};

            if (change_one(image, "to", merge, &c, &error))
                break;
            g_assert_error(error, QIMG_ERROR, QIMG_ERROR_CANCELED);
            g_clear_error(&error);
            n_canceled++;
            g_assert_cmpuint(n_canceled, <, MAX_ATTEMPTS);
            g_assert_false(is_dirty_at_start(image, "to"));
            qimg_image_close(image);
            g_assert_cmpuint(count_faults(&f), ==, 0);
            image = open_image(&f, true);
        }
        g_assert_cmpuint(n_canceled, >, 1);
        g_assert_true(is_dirty_at_start(image, "to"));
        qimg_image_close(image);
        qimg_image_close(source);
        g_assert_cmpuint(count_faults(&f), ==, 0);
        fixture_clear(&f);
        fixture_clear(&other);
    }
}

/* ---- comparing ---- */

static gboolean
ignore_range(uint64_t guest_offset, uint64_t length_bytes, void *user)
{
    (void)guest_offset, (void)length_bytes, (void)user;
    return TRUE;
}

static void
test_diff(void)
{
    unsigned n_canceled = 0;
    GError *error = NULL;
    QimgImage *image, *old;
    Fixture f;

    make_image(&f, "4096");
    image = open_image(&f, true);
    g_assert_cmpint(qimg_image_resize(image, GROWN_BYTES, NULL, NULL), ==, 0);
    set_random_parts(image, GROWN_BYTES);
    qimg_image_create_snapshot(image, "old", NULL, NULL, &error);
    g_assert_no_error(error);
    fill(image, DISK_BYTES, 2 * DISK_BYTES, 8);
    old = qimg_image_open_snapshot(image, 0, &error);
    g_assert_no_error(error);
    for (;;) {
        Canceler c = {.last_call = n_canceled + 1};

        if (qimg_image_diff(image, old, ignore_range, count_and_cancel, &c, &error))
            break;
        g_assert_error(error, QIMG_ERROR, QIMG_ERROR_CANCELED);
        g_clear_error(&error);
        n_canceled++;
        g_assert_cmpuint(n_canceled, <, MAX_ATTEMPTS);
    }
    g_assert_cmpuint(n_canceled, >, 1);
    qimg_image_close(old);
    qimg_image_close(image);
    fixture_clear(&f);
}

/* ---- checking and repairing ---- */

/* Raises some refcounts too high, and sets one to 0. */
static void
damage(const Fixture *f)
{
    g_autofree char *bytes = NULL;
    gsize n_bytes;

    g_assert_true(g_file_get_contents(f->path, &bytes, &n_bytes, NULL));
    g_assert_cmpint(bytes[REFTABLE_AT + 6], ==, FIRST_BLOCK >> 8);
    bytes[FIRST_BLOCK + 2 * 20 + 1] = 0;
    bytes[FIRST_BLOCK + 2 * 30 + 1] = 5;
    bytes[n_bytes - 1] = 1; /* without meaning: data */
    g_assert_true(g_file_set_contents(f->path, bytes, (gssize)n_bytes, NULL));
}

static void
test_check(void)
{
    static const QimgRepair modes[] = {QIMG_REPAIR_NONE, QIMG_REPAIR_LEAKS,
                                       QIMG_REPAIR_ALL};

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        unsigned n_canceled = 0;
        QimgImage *image;
        uint64_t n_faults;
        Fixture f;

        make_image(&f, "512");
        image = open_image(&f, true);
        fill(image, 0, DISK_BYTES, 3);
        qimg_image_close(image);
        damage(&f);
        n_faults = count_faults(&f);
        g_assert_cmpuint(n_faults, >, 0);
        for (;;) {
            Canceler c = {.last_call = n_canceled + 1};
            g_autofree char *before = NULL, *after = NULL;
            gsize n_before = 0, n_after = 0;
            GError *error = NULL;
            g_autoptr(QimgCheckResult) result = NULL;

            g_file_get_contents(f.path, &before, &n_before, NULL);
            result = qimg_check(f.path, NULL, modes[i], count_and_cancel, &c, &error);
            g_file_get_contents(f.path, &after, &n_after, NULL);
            if (modes[i] == QIMG_REPAIR_NONE)
                g_assert_cmpmem(before, n_before, after, n_after);
            if (result) {
                g_assert_cmpuint(c.n_passes, >=, 1);
                break;
            }
            g_assert_error(error, QIMG_ERROR, QIMG_ERROR_CANCELED);
            g_clear_error(&error);
            n_canceled++;
            g_assert_cmpuint(n_canceled, <, MAX_ATTEMPTS);
            g_assert_cmpuint(count_faults(&f), <=, n_faults); /* never worse */
            n_faults = count_faults(&f);
        }
        g_assert_cmpuint(n_canceled, >, 1);
        if (modes[i] == QIMG_REPAIR_ALL)
            g_assert_cmpuint(count_faults(&f), ==, 0);
        image = open_image(&f, false);
        check_filled(image, 0, DISK_BYTES - KIB, 3);
        qimg_image_close(image);
        fixture_clear(&f);
    }
}

/* ---- copying ---- */

/* A canceled copy can be resumed, or has left nothing. */
static void
test_copy(void)
{
    g_autofree char *target = NULL;
    g_autofree char *content = NULL;
    QimgCopyOptions options = {
        .struct_bytes = sizeof options, .on_progress = count_and_cancel, .resume = TRUE};
    unsigned n_canceled = 0;
    QimgImage *image;
    gsize n_bytes;
    Fixture f;

    make_image(&f, "4096");
    image = open_image(&f, true);
    g_assert_cmpint(qimg_image_resize(image, GROWN_BYTES, NULL, NULL), ==, 0);
    fill(image, 0, GROWN_BYTES, 4);
    qimg_image_close(image);
    image = open_image(&f, false);
    target = g_build_filename(f.dir, "copy", NULL);
    options.target_path = target;
    for (;;) {
        Canceler c = {.last_call = n_canceled + 1};
        QimgCopy *copy;
        GError *error = NULL;
        bool is_good, is_resumable;

        options.user = &c;
        copy = qimg_copy_new(image, &options);
        is_good = qimg_copy_run(copy, &error);
        is_resumable = qimg_copy_get_report(copy)->is_resumable;
        qimg_copy_free(copy);
        if (is_good)
            break;
        g_assert_error(error, QIMG_ERROR, QIMG_ERROR_CANCELED);
        g_clear_error(&error);
        n_canceled++;
        g_assert_cmpuint(n_canceled, <, MAX_ATTEMPTS);
        g_assert_cmpint(g_file_test(target, G_FILE_TEST_EXISTS), ==, is_resumable);
    }
    g_assert_cmpuint(n_canceled, >, 1);
    g_assert_true(g_file_get_contents(target, &content, &n_bytes, NULL));
    g_assert_cmpuint(n_bytes, ==, GROWN_BYTES);
    for (gsize i = 0; i < n_bytes; i++)
        g_assert_cmpuint((guchar)content[i], ==, 4);
    qimg_image_close(image);
    fixture_clear(&f);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/cancel/create", test_create);
    g_test_add_func("/cancel/grow", test_grow);
    g_test_add_func("/cancel/shrink", test_shrink);
    g_test_add_func("/cancel/resize-to-grow", test_resize_to_grow);
    g_test_add_func("/cancel/merge", test_merge);
    g_test_add_func("/cancel/diff", test_diff);
    g_test_add_func("/cancel/snapshots", test_snapshots);
    g_test_add_func("/cancel/check", test_check);
    g_test_add_func("/cancel/copy", test_copy);
    return g_test_run();
}
