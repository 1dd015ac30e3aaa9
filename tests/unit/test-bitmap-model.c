/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bitmaps of an image in use against a shadow of them: random writes, zeros, discards,
 * changes of the size and of the bitmaps, each bit compared, also after the image was
 * closed. Rounds that do not grow the file, failing requests, and bounded memory. */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#include "format/drivers.h"
#include "format/qcow2/bitmap/tracker.h"
#include "memory-image.h"
#include "memory-storage.h"
#include "test-util.h"

#define MAX_DISK_BYTES (8u * 1024 * 1024)
#define MAX_BITS       (MAX_DISK_BYTES / 512)
#define MAX_WRITE      70000u
#define N_BITMAPS      3u
#define N_OPS          300u
#define N_ROUNDS       1000u

typedef struct {
    const char *name;
    unsigned bits; /* of the granularity */
    bool is_enabled;
    uint8_t set[MAX_BITS]; /* 1: the granule is dirty */
} Shadow;

typedef struct {
    char *dir, *path;
    GRand *rand;
    QimgImage *image;
    uint64_t size_bytes;
    Shadow shadows[N_BITMAPS];
} Model;

/* ---- the image ---- */

static void
open_image(Model *m)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;

    g_assert_true(qimg_options_set(options, "rw", NULL, NULL));
    m->image = qimg_image_open(m->path, options, &error);
    g_assert_no_error(error);
}

static void
act(QimgImage *image, const char *name, QimgBitmapAction action)
{
    const QimgBitmapAction *actions[] = {&action};
    g_autoptr(GError) error = NULL;

    action.struct_bytes = sizeof action;
    qimg_image_change_bitmaps(image, name, actions, 1, NULL, NULL, &error);
    g_assert_no_error(error);
}

/* In memory, if possible: there are thousands of syncs. */
static char *
make_dir(void)
{
    char *dir = g_strdup("/dev/shm/qimg-test-XXXXXX");

    if (g_mkdtemp(dir))
        return dir;
    g_free(dir);
    return test_util_make_dir();
}

static void
set_up(Model *m, const char *cluster_size)
{
    g_autoptr(QimgCreate) create = qimg_create_new();
    g_autoptr(GError) error = NULL;

    *m =
        (Model){.dir = make_dir(),
                .rand = g_rand_new_with_seed(test_util_seed()),
                .size_bytes = 4 * QIMG_MIB,
                .shadows = {{"fine", 9, true}, {"coarse", 16, true}, {"page", 12, true}}};
    m->path = g_build_filename(m->dir, "disk", NULL);
    test_util_set_property(create, "size", "4M");
    test_util_set_property(create, "cluster_size", cluster_size);
    qimg_create_run(create, m->path, NULL, NULL, &error);
    g_assert_no_error(error);
    open_image(m);
    for (unsigned i = 0; i < N_BITMAPS; i++)
        act(m->image, m->shadows[i].name,
            (QimgBitmapAction){.kind = QIMG_BITMAP_ADD,
                               .granularity_bytes = UINT64_C(1) << m->shadows[i].bits});
}

static void
tear_down(Model *m)
{
    qimg_image_close(m->image);
    g_rand_free(m->rand);
    g_free(m->path);
    test_util_remove_dir(m->dir);
}

/* ---- the shadow ---- */

static uint64_t
n_bits(const Model *m, const Shadow *s)
{
    return (m->size_bytes + (UINT64_C(1) << s->bits) - 1) >> s->bits;
}

static void
set_range(Shadow *s, uint64_t start, uint64_t end)
{
    for (uint64_t n = start >> s->bits; n <= (end - 1) >> s->bits; n++)
        s->set[n] = 1;
}

static void
touch(Model *m, uint64_t start, uint64_t length)
{
    for (unsigned i = 0; i < N_BITMAPS; i++)
        if (m->shadows[i].is_enabled)
            set_range(&m->shadows[i], start, start + length);
}

static void
merge(const Model *m, Shadow *to, const Shadow *from)
{
    for (uint64_t n = 0; n < n_bits(m, from); n++)
        if (from->set[n])
            set_range(to, n << from->bits, MIN((n + 1) << from->bits, m->size_bytes));
}

static void
compare(const Model *m)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgBitmaps) list = qimg_image_read_bitmaps(m->image, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(qimg_bitmaps_get_n(list), ==, N_BITMAPS);
    for (unsigned i = 0; i < N_BITMAPS; i++) {
        const Shadow *s = &m->shadows[i];
        QimgBitmapExtent extent = {.struct_bytes = sizeof extent};
        g_autoptr(QimgBitmapReader) reader = NULL;
        unsigned place;

        qimg_bitmaps_find(list, s->name, &place, &error);
        g_assert_no_error(error);
        g_assert_null(qimg_bitmap_get_reason(qimg_bitmaps_get(list, place)));
        g_assert_cmpint(qimg_bitmaps_get(list, place)->is_enabled, ==, s->is_enabled);
        reader = qimg_bitmap_reader_new(m->image, list, place);
        for (uint64_t at = 0; at < m->size_bytes; at += extent.length_bytes) {
            g_assert_cmpint(qimg_bitmap_reader_map(reader, at, &extent), ==, 0);
            for (uint64_t n = at >> s->bits;
                 n <= (at + extent.length_bytes - 1) >> s->bits; n++)
                if (s->set[n] != extent.is_dirty)
                    g_error("bitmap %s: the granule at %" G_GUINT64_FORMAT " is %s",
                            s->name, n << s->bits, extent.is_dirty ? "dirty" : "clean");
        }
    }
}

/* ---- operations ---- */

static void
resize(Model *m, uint64_t size_bytes)
{
    g_assert_cmpint(qimg_image_resize(m->image, size_bytes, NULL, NULL), ==, 0);
    m->size_bytes = size_bytes;
    for (unsigned i = 0; i < N_BITMAPS; i++) {
        Shadow *s = &m->shadows[i];

        memset(s->set + n_bits(m, s), 0, MAX_BITS - n_bits(m, s));
    }
}

static void
change_bitmap(Model *m)
{
    Shadow *s = &m->shadows[g_rand_int_range(m->rand, 0, N_BITMAPS)];
    Shadow *other = &m->shadows[g_rand_int_range(m->rand, 0, N_BITMAPS)];

    switch (g_rand_int_range(m->rand, 0, 4)) {
    case 0:
        act(m->image, s->name, (QimgBitmapAction){.kind = QIMG_BITMAP_CLEAR});
        memset(s->set, 0, sizeof s->set);
        break;
    case 1:
        act(m->image, s->name, (QimgBitmapAction){.kind = QIMG_BITMAP_DISABLE});
        s->is_enabled = false;
        break;
    case 2:
        act(m->image, s->name,
            (QimgBitmapAction){.kind = QIMG_BITMAP_MERGE, .source = other->name});
        merge(m, s, other);
        break;
    default:
        act(m->image, s->name, (QimgBitmapAction){.kind = QIMG_BITMAP_ENABLE});
        s->is_enabled = true;
        break;
    }
}

static void
step(Model *m)
{
    static const uint8_t bytes[MAX_WRITE] = {7};
    uint64_t start = g_rand_double(m->rand) * (double)m->size_bytes;
    uint64_t length = g_rand_boolean(m->rand) ? 1 + g_rand_int(m->rand) % 5000
                                              : 1 + g_rand_int(m->rand) % MAX_WRITE;

    length = MIN(length, m->size_bytes - start);
    switch (g_rand_int_range(m->rand, 0, 12)) {
    case 0 ... 3:
        g_assert_cmpint(qimg_image_write(m->image, start, bytes, length), ==, 0);
        touch(m, start, length);
        break;
    case 4 ... 5:
        g_assert_cmpint(qimg_image_zero(m->image, start, length), ==, 0);
        touch(m, start, length);
        break;
    case 6 ... 7:
        g_assert_cmpint(qimg_image_discard(m->image, start, length), ==, 0);
        touch(m, start, length);
        break;
    case 8:
        resize(m, 512 * (1 + g_rand_int(m->rand) % MAX_BITS));
        break;
    case 9:
        g_assert_cmpint(qimg_image_flush(m->image), ==, 0);
        break;
    case 10:
        qimg_image_close(m->image);
        open_image(m);
        break;
    default:
        change_bitmap(m);
        break;
    }
}

static void
test_model(gconstpointer cluster_size)
{
    Model *m = g_new(Model, 1);

    set_up(m, cluster_size);
    for (unsigned i = 0; i < N_OPS; i++) {
        step(m);
        if (i % 8 == 0)
            compare(m);
    }
    qimg_image_close(m->image);
    open_image(m);
    compare(m);
    tear_down(m);
    g_free(m);
}

/* ---- rounds ---- */

/* Opening, a write and closing take no space again and again. */
static void
test_rounds(void)
{
    Model *m = g_new(Model, 1);
    GStatBuf first = {0}, last;

    set_up(m, "4096");
    for (unsigned i = 0; i < N_ROUNDS; i++) {
        uint64_t at = i % 64 * 65536;

        g_assert_cmpint(qimg_image_write(m->image, at, "x", 1), ==, 0);
        touch(m, at, 1);
        qimg_image_close(m->image);
        if (i == N_ROUNDS / 4)
            g_assert_cmpint(g_stat(m->path, &first), ==, 0);
        open_image(m);
    }
    g_assert_cmpint(g_stat(m->path, &last), ==, 0);
    g_assert_cmpint(first.st_size, ==, last.st_size);
    compare(m);
    tear_down(m);
    g_free(m);
}

/* ---- failing requests, memory ---- */

static bool
is_dirty(QimgImage *image, uint64_t guest_offset)
{
    g_autoptr(QimgBitmaps) list = qimg_image_read_bitmaps(image, NULL);
    g_autoptr(QimgBitmapReader) reader = qimg_bitmap_reader_new(image, list, 0);
    QimgBitmapExtent extent = {.struct_bytes = sizeof extent};

    g_assert_cmpint(qimg_bitmap_reader_map(reader, guest_offset, &extent), ==, 0);
    return extent.is_dirty;
}

static int
write_page(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes)
{
    static const uint8_t bytes[2 * 65536] = {1};

    g_assert_cmpuint(length_bytes, <=, sizeof bytes);
    return qimg_image_write(image, guest_offset, bytes, length_bytes);
}

static const struct {
    const char *name;
    int (*run)(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes);
    uint64_t guest_offset, length_bytes;
} failing[] = {
    {"write-in-place", write_page, 0, 4096},
    {"write-allocating", write_page, 5 * 65536, 4096},
    {"zero-part", qimg_image_zero, 4096, 4096},
    {"zero-cluster", qimg_image_zero, 65536, 65536},
    {"zero-across", qimg_image_zero, 65536 - 512, 65536 + 512},
    {"discard-cluster", qimg_image_discard, 65536, 65536},
    {"discard-across", qimg_image_discard, 65536 - 512, 65536 + 512},
};

/* The host's file may have changed nevertheless. */
static void
test_failing_requests(void)
{
    static const uint8_t bytes[4 * 65536] = {1};
    const QimgCreateOptions create = {
        .size_bytes = QIMG_MIB, .version = 3, .cluster_bits = 16, .refcount_order = 4};

    for (unsigned i = 0; i < G_N_ELEMENTS(failing); i++) {
        MemoryImage o = memory_image_new(&qimg_driver_qcow2, &create);
        uint64_t at = failing[i].guest_offset, end = at + failing[i].length_bytes;

        g_test_message("%s", failing[i].name);
        g_assert_cmpint(qimg_image_write(o.disk, 0, bytes, sizeof bytes), ==, 0);
        act(o.disk, "e", (QimgBitmapAction){.kind = QIMG_BITMAP_ADD});
        /* IN_USE is set, so that nothing but the request itself can fail. */
        g_assert_cmpint(qimg_image_write(o.disk, QIMG_MIB - 1, "x", 1), ==, 0);
        g_assert_false(is_dirty(o.disk, at));
        memory_storage_add_fault(o.data, &(MemoryFault){.calls = MEMORY_CHANGES,
                                                        .purpose = MEMORY_ANY_PURPOSE,
                                                        .n_fails = UINT64_MAX,
                                                        .errnum = ENOSPC});
        g_assert_cmpint(failing[i].run(o.disk, at, end - at), ==, -ENOSPC);
        memory_storage_clear_faults(o.data);
        g_assert_true(is_dirty(o.disk, at));
        g_assert_true(is_dirty(o.disk, end - 1));
        g_assert_false(is_dirty(o.disk, end + 65536));
        qimg_image_close(o.disk);
    }
}

/* 64 TiB with eight bitmaps: each write touches another 32 GiB of each. */
static void
test_memory(void)
{
    const QimgCreateOptions create = {.size_bytes = UINT64_C(64) << 40,
                                      .version = 3,
                                      .cluster_bits = 16,
                                      .refcount_order = 4};
    MemoryImage o = memory_image_new(&qimg_driver_qcow2, &create);
    const Qcow2 *q = (const Qcow2 *)o.disk->chain->layers[0];
    uint64_t most_bytes = 0;

    for (unsigned i = 0; i < 8; i++) {
        char name[] = {(char)('a' + i), '\0'};

        act(o.disk, name, (QimgBitmapAction){.kind = QIMG_BITMAP_ADD});
    }
    for (uint64_t i = 0; i < 200; i++) {
        uint64_t n_bytes;

        g_assert_cmpint(qimg_image_write(o.disk, i << 35, "x", 1), ==, 0);
        n_bytes = atomic_load(&q->tracker->n_bytes);
        g_assert_cmpuint(n_bytes, <=, q->tracker->max_bytes);
        most_bytes = MAX(most_bytes, n_bytes);
    }
    g_assert_cmpuint(most_bytes, >, q->tracker->max_bytes / 2);
    g_assert_cmpuint(q->tracker->max_bytes, ==, 64 * QIMG_MIB);
    for (uint64_t i = 0; i < 200; i++)
        g_assert_true(is_dirty(o.disk, i << 35));
    g_assert_false(is_dirty(o.disk, 65536));
    qimg_image_close(o.disk);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_data_func("/bitmap-model/clusters-1k", "1024", test_model);
    g_test_add_data_func("/bitmap-model/clusters-64k", "65536", test_model);
    g_test_add_func("/bitmap-model/rounds", test_rounds);
    g_test_add_func("/bitmap-model/failing-requests", test_failing_requests);
    g_test_add_func("/bitmap-model/memory", test_memory);
    return g_test_run();
}
