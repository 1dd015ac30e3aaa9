/* SPDX-License-Identifier: GPL-2.0-or-later */
/* format/qcow2/amend.c: a change of the header that fails or is interrupted at each of
 * its writes leaves the old properties or the new ones, and the same disk; refusals. */
#include <errno.h>
#include <string.h>

#include "event-storage.h"
#include "format/drivers.h"
#include "format/qcow2/amend.h"
#include "memory-image.h"
#include "memory-storage.h"
#include "qcow2-check.h"
#include "test-util.h"

#define N_CLUSTERS 40u
#define N_KEPT     16u

typedef struct {
    const char *name;
    unsigned cluster_bits;
    QimgHeaderChange change;
} Case;

#define STAYS                                                                            \
    .refcount_order = QIMG_FIELD_STAYS, .lazy_refcounts = QIMG_FIELD_STAYS,              \
    .data_file_raw = QIMG_FIELD_STAYS

static const char long_name[] =
    "a/very/long/name/of/a/backing/file/that/does/not/fit/in/the/first/sector/"
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901"
    "2345678901234567890123456789012345678901234567890123456789012345678901234567890123"
    "4567890123456789012345678901234567890123456789012345678901234567890123456789012345"
    "6789012345678901234567890123456789012345678901234567890123456789012345678901234567"
    "890123456789012345678901234567890123456789";

static const Case cases[] = {
    {"version-2", 12, {STAYS, .version = 2}},
    {"lazy",
     12,
     {.refcount_order = QIMG_FIELD_STAYS,
      .lazy_refcounts = 1,
      .data_file_raw = QIMG_FIELD_STAYS}},
    {"wider",
     9,
     {.refcount_order = 6,
      .lazy_refcounts = QIMG_FIELD_STAYS,
      .data_file_raw = QIMG_FIELD_STAYS}},
    {"narrower",
     9,
     {.refcount_order = 1,
      .lazy_refcounts = QIMG_FIELD_STAYS,
      .data_file_raw = QIMG_FIELD_STAYS}},
    {"backing",
     9,
     {STAYS, .sets_backing = true, .backing_name = "new", .backing_format = "raw"}},
    {"long-backing",
     12,
     {STAYS, .sets_backing = true, .backing_name = long_name, .backing_format = "qcow2"}},
    {"no-backing", 12, {STAYS, .sets_backing = true}},
};

/* A disk with data and a snapshot, and @backing_name as its backing file. */
static GByteArray *
make_image(unsigned cluster_bits, const char *backing_name)
{
    const QimgCreateOptions options = {
        .size_bytes = (uint64_t)N_CLUSTERS << cluster_bits,
        .cluster_bits = cluster_bits,
        .version = 3,
        .refcount_order = 4,
    };
    MemoryImage image = memory_image_new(&qimg_driver_qcow2, &options);
    g_autofree uint8_t *content = g_malloc((size_t)N_CLUSTERS << cluster_bits);
    QimgHeaderChange backing = {STAYS, .sets_backing = true, .backing_name = backing_name,
                                .backing_format = "raw"};
    g_autoptr(GByteArray) plain = NULL;
    GError *error = NULL;
    GByteArray *bytes;
    TestLayer layer;

    memset(content, 7, (size_t)N_CLUSTERS << cluster_bits);
    g_assert_cmpint(
        qimg_image_write(image.disk, 0, content, (size_t)N_CLUSTERS / 2 << cluster_bits),
        ==, 0);
    g_assert_true(qimg_image_create_snapshot(image.disk, "one", NULL, NULL, &error));
    g_assert_cmpint(qimg_image_write(image.disk, 0, content, (size_t)5 << cluster_bits),
                    ==, 0);
    g_assert_cmpint(qimg_image_flush(image.disk), ==, 0);
    plain = memory_storage_copy_all(image.file);
    qimg_image_close(image.disk);
    layer = test_layer_open(plain, false);
    g_assert_true(qcow2_change_header(&layer.q->base, &backing, NULL, &error));
    bytes = g_byte_array_ref(layer.storage->bytes);
    test_layer_close(&layer);
    return bytes;
}

/* Whether the image in @bytes has the properties of @change; it is sound, and its disk is
 * mapped as in @wanted. */
static bool
has_change(const GByteArray *bytes, const QimgHeaderChange *change,
           const QimgRun wanted[N_CLUSTERS])
{
    g_autofree char *problem = qcow2_check_bytes(bytes->data, bytes->len, NULL);
    TestLayer layer = test_layer_open(bytes, false);
    const Qcow2 *q = layer.q;
    QimgRun runs[N_CLUSTERS];
    bool has;

    g_assert_cmpstr(problem, ==, NULL);
    test_layer_get_mapping(&layer, &q->base.active, runs, N_CLUSTERS);
    test_assert_same_mapping(runs, wanted, N_CLUSTERS);
    has = (!change->version || q->header.version == change->version) &&
          (change->refcount_order == QIMG_FIELD_STAYS ||
           q->header.refcount_order == (uint32_t)change->refcount_order) &&
          (change->lazy_refcounts != 1 ||
           (q->header.compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS));
    if (change->sets_backing) {
        has = has && g_strcmp0(q->base.backing_name, change->backing_name) == 0;
        /* The name and its format change together. */
        g_assert_cmpstr(q->base.backing_format, ==, has ? change->backing_format : "raw");
    }
    if (!has)
        g_assert_cmpstr(q->base.backing_name, ==, "old");
    test_layer_close(&layer);
    return has;
}

static void
get_mapping(const GByteArray *bytes, QimgRun runs[N_CLUSTERS])
{
    TestLayer layer = test_layer_open(bytes, false);

    test_layer_get_mapping(&layer, &layer.q->base.active, runs, N_CLUSTERS);
    test_layer_close(&layer);
}

/* The machine dies before each event. */
static void
test_power_cuts(const void *data)
{
    const Case *c = data;
    g_autoptr(GByteArray) start = make_image(c->cluster_bits, "old");
    QimgRun wanted[N_CLUSTERS];
    TestLayer layer = test_layer_open(start, false);
    unsigned n_old = 0, n_new = 0;
    GError *error = NULL;
    guint n_events;

    get_mapping(start, wanted);
    g_assert_true(qcow2_change_header(&layer.q->base, &c->change, NULL, &error));
    n_events = layer.storage->events->len;
    g_assert_true(has_change(layer.storage->bytes, &c->change, wanted));
    for (guint end = 0; end <= n_events; end++) {
        for (unsigned i = 0; i < N_KEPT; i++) {
            uint64_t kept = i == 0 ? 0 : UINT64_MAX / i;
            g_autoptr(GByteArray) bytes =
                event_storage_after_power_cut(start, layer.storage->events, end, kept);

            if (has_change(bytes, &c->change, wanted))
                n_new++;
            else
                n_old++;
        }
    }
    g_assert_cmpuint(n_old, >, 0);
    g_assert_cmpuint(n_new, >, 0);
    test_layer_close(&layer);
}

/* The header is changed by one write of at most a sector: a disk tears longer ones. */
static void
test_one_sector(const void *data)
{
    const Case *c = data;
    g_autoptr(GByteArray) start = make_image(c->cluster_bits, "old");
    TestLayer layer = test_layer_open(start, false);
    unsigned n_header_writes = 0;
    GError *error = NULL;

    g_assert_true(qcow2_change_header(&layer.q->base, &c->change, NULL, &error));
    for (guint i = 0; i < layer.storage->events->len; i++) {
        const StorageEvent *e = &g_array_index(layer.storage->events, StorageEvent, i);

        if (!e->bytes || e->file_offset >= QIMG_SECTOR_BYTES)
            continue;
        g_assert_cmpuint(e->file_offset + g_bytes_get_size(e->bytes), <=,
                         QIMG_SECTOR_BYTES);
        n_header_writes++;
    }
    g_assert_cmpuint(n_header_writes, ==, 1);
    test_layer_close(&layer);
}

static void
test_failing_writes(const void *data)
{
    const Case *c = data;
    g_autoptr(GByteArray) start = make_image(c->cluster_bits, "old");
    QimgRun wanted[N_CLUSTERS];
    bool is_done = false;

    get_mapping(start, wanted);
    for (unsigned n = 0; !is_done; n++) {
        TestLayer layer = test_layer_open(start, false);
        g_autoptr(GError) error = NULL;

        layer.storage->n_until_failure = n;
        layer.storage->errnum = EIO;
        is_done = qcow2_change_header(&layer.q->base, &c->change, NULL, &error);
        g_assert_cmpint(error == NULL, ==, is_done);
        g_assert_cmpint(has_change(layer.storage->bytes, &c->change, wanted), ==,
                        is_done);
        test_layer_close(&layer);
    }
}

/* The name moves between two places, so that it is never written over. */
static void
test_again_and_again(void)
{
    g_autoptr(GByteArray) bytes = make_image(12, "old");
    g_autofree char *problem = NULL;

    for (unsigned i = 0; i < 20; i++) {
        g_autofree char *name = g_strdup_printf("%s-%u", long_name, i);
        const QimgHeaderChange change = {STAYS, .sets_backing = true,
                                         .backing_name = name, .backing_format = "qcow2"};
        TestLayer layer = test_layer_open(bytes, false);
        GError *error = NULL;

        g_assert_true(qcow2_change_header(&layer.q->base, &change, NULL, &error));
        g_byte_array_unref(bytes);
        bytes = g_byte_array_ref(layer.storage->bytes);
        test_layer_close(&layer);
        layer = test_layer_open(bytes, false);
        g_assert_cmpstr(layer.q->base.backing_name, ==, name);
        test_layer_close(&layer);
    }
    problem = qcow2_check_bytes(bytes->data, bytes->len, NULL);
    g_assert_cmpstr(problem, ==, NULL);
}

static void
refuse(const QimgHeaderChange *change, QimgError code, const char *text)
{
    g_autoptr(GByteArray) bytes = make_image(9, "old");
    TestLayer layer = test_layer_open(bytes, false);
    GError *error = NULL;

    g_assert_false(qcow2_change_header(&layer.q->base, change, NULL, &error));
    g_assert_cmpuint(layer.storage->events->len, ==, 0);
    test_util_check_error(&error, code, text);
    test_layer_close(&layer);
}

static void
test_refusals(void)
{
    refuse(&(QimgHeaderChange){.refcount_order = 0,
                               .lazy_refcounts = QIMG_FIELD_STAYS,
                               .data_file_raw = QIMG_FIELD_STAYS},
           QIMG_ERROR_REFUSED,
           "refcount_bits=1: snapshots share a cluster more often than such a refcount "
           "can count");
    refuse(&(QimgHeaderChange){.refcount_order = 3,
                               .lazy_refcounts = QIMG_FIELD_STAYS,
                               .data_file_raw = QIMG_FIELD_STAYS,
                               .version = 2},
           QIMG_ERROR_REFUSED,
           "compat=0.10: version 2 of the format has no place for refcounts of other "
           "than 16 bits (give refcount_bits=16, too)");
    refuse(
        &(QimgHeaderChange){STAYS, .sets_backing = true, .backing_name = long_name,
                            .backing_format = "raw"},
        QIMG_ERROR_UNSUPPORTED,
        "header: its extensions and names do not fit where they can be changed safely: "
        "the first 512 bytes, and a free part of the first cluster for the backing "
        "file's name (use shorter names, or copy the image)");
    refuse(&(QimgHeaderChange){STAYS, .data_file_name = "data"}, QIMG_ERROR_USAGE,
           "data_file: the image has its data in its own file, and they are not moved "
           "(copy it to a new image)");
}

static void
add_case(const char *test, const Case *c, void (*func)(const void *data))
{
    g_autofree char *path = g_strdup_printf("/qcow2-amend/%s/%s", test, c->name);

    g_test_add_data_func(path, c, func);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        add_case("power-cuts", &cases[i], test_power_cuts);
        add_case("one-sector", &cases[i], test_one_sector);
        add_case("failing-writes", &cases[i], test_failing_writes);
    }
    g_test_add_func("/qcow2-amend/again-and-again", test_again_and_again);
    g_test_add_func("/qcow2-amend/refusals", test_refusals);
    return g_test_run();
}
