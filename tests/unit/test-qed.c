/* SPDX-License-Identifier: GPL-2.0-or-later */
/* format/qed: the map, and images that are cut, damaged, or were not closed properly.
 * tests/oracle/test_qed.py compares content with QEMU's. */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "format/drivers.h"
#include "memory-storage.h"
#include "qed-image.h"
#include "test-util.h"

#define CLUSTER    QED_IMAGE_CLUSTER
#define L1_OFFSET  QED_IMAGE_L1_OFFSET
#define L2_OFFSET  QED_IMAGE_L2_OFFSET
#define DATA       QED_IMAGE_DATA
#define TABLE_MAPS QED_IMAGE_TABLE_MAPS
#define DISK_BYTES QED_IMAGE_DISK_BYTES

/* ---- mapping ---- */

static QimgRun
map_at(const QedImage *o, uint64_t guest_offset, uint64_t length_bytes)
{
    QimgRun run;

    g_assert_cmpint(qimg_driver_qed.map(o->layer, &o->layer->active,
                                        qimg_guest(guest_offset), length_bytes, &run),
                    ==, 0);
    return run;
}

static void
test_map_entries(void)
{
    static const struct {
        uint64_t entry;
        QimgRunKind kind;
    } rows[] = {
        {0, QIMG_RUN_UNALLOCATED},
        {1, QIMG_RUN_ZERO},
        {DATA, QIMG_RUN_DATA},
        {DATA + 2 * CLUSTER, QIMG_RUN_DATA},
        {DATA + 3 * CLUSTER, QIMG_RUN_DAMAGED}, /* the file's end */
        {L1_OFFSET, QIMG_RUN_DATA},             /* reads permit it */
        {2, QIMG_RUN_DAMAGED},
        {CLUSTER - 1, QIMG_RUN_DAMAGED},
        {DATA + 1, QIMG_RUN_DAMAGED},
        {DATA + 2048, QIMG_RUN_DAMAGED},
        {UINT64_C(1) << 62, QIMG_RUN_DAMAGED},
        {(UINT64_C(1) << 63) - CLUSTER, QIMG_RUN_DAMAGED},
        {UINT64_C(1) << 63, QIMG_RUN_DAMAGED},
        {UINT64_MAX, QIMG_RUN_DAMAGED},
        {UINT64_MAX - CLUSTER + 1, QIMG_RUN_DAMAGED},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GByteArray) bytes = qed_image_build(0, 3, &rows[i].entry, 1);
        QedImage o = qed_image_open(bytes);
        QimgRun run = map_at(&o, 100, 1);

        g_test_message("entry 0x%" PRIx64, rows[i].entry);
        g_assert_cmpint(run.kind, ==, rows[i].kind);
        if (run.kind == QIMG_RUN_DATA)
            g_assert_cmpuint(run.host_offset.v, ==, rows[i].entry + 100);
        if (run.kind == QIMG_RUN_DAMAGED)
            g_assert_cmpint(qed_image_read(&o, 0), ==, -EIO);
        qimg_image_close(o.disk);
    }
}

/* A header of two clusters: its second one is no valid place. */
static void
test_map_header(void)
{
    static const uint64_t entries[] = {CLUSTER, L2_OFFSET};
    g_autoptr(GByteArray) bytes = qed_image_build(0, 1, entries, G_N_ELEMENTS(entries));
    qimg_le32 header_size = qimg_le32_set(2);
    QedImage o;

    /* Move the L1 table to the former place of the data. */
    memcpy(bytes->data + 12, &header_size, sizeof header_size);
    qed_image_put(bytes, 40, DATA);
    qed_image_put(bytes, DATA, L2_OFFSET);
    qed_image_put(bytes, DATA + 8, CLUSTER);
    o = qed_image_open(bytes);
    g_assert_cmpint(map_at(&o, 0, 1).kind, ==, QIMG_RUN_DAMAGED);
    g_assert_cmpint(map_at(&o, CLUSTER, 1).kind, ==, QIMG_RUN_DATA);
    g_assert_cmpint(map_at(&o, TABLE_MAPS, 1).kind, ==, QIMG_RUN_DAMAGED);
    qimg_image_close(o.disk);
}

static void
test_map_tables(void)
{
    static const uint64_t damaged[] = {
        L2_OFFSET + 8,
        8,
        CLUSTER - 8,
        DATA + 3 * CLUSTER,
        UINT64_C(1) << 50,
        UINT64_MAX,
        UINT64_MAX - CLUSTER + 1,
        UINT64_C(1) << 63,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(damaged); i++) {
        g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
        QedImage o;

        qed_image_put(bytes, L1_OFFSET, damaged[i]);
        o = qed_image_open(bytes);
        g_assert_cmpint(map_at(&o, 5, 1).kind, ==, QIMG_RUN_DAMAGED);
        g_assert_cmpuint(map_at(&o, 5, 1).length_bytes, ==, TABLE_MAPS - 5);
        g_assert_cmpint(map_at(&o, TABLE_MAPS, 1).kind, ==, QIMG_RUN_UNALLOCATED);
        qimg_image_close(o.disk);
    }
}

/* Runs are as long as possible. */
static void
test_map_runs(void)
{
    static const uint64_t entries[] = {DATA, DATA + CLUSTER, 1, 1, DATA + 2 * CLUSTER,
                                       7,    UINT64_MAX};
    static const struct {
        unsigned cluster;
        unsigned n_clusters;
        QimgRunKind kind;
    } rows[] = {{0, 2, QIMG_RUN_DATA},
                {2, 2, QIMG_RUN_ZERO},
                {4, 1, QIMG_RUN_DATA},
                {5, 2, QIMG_RUN_DAMAGED},
                {7, 505 + 7 * 512, QIMG_RUN_UNALLOCATED}};
    g_autoptr(GByteArray) bytes = qed_image_build(0, 3, entries, G_N_ELEMENTS(entries));
    QedImage o = qed_image_open(bytes);

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint64_t start = rows[i].cluster * (uint64_t)CLUSTER + 10;
        QimgRun run = map_at(&o, start, DISK_BYTES - start);

        g_assert_cmpint(run.kind, ==, rows[i].kind);
        g_assert_cmpuint(MIN(run.length_bytes, DISK_BYTES - start), ==,
                         rows[i].n_clusters * CLUSTER - 10);
    }
    qimg_image_close(o.disk);
}

/* ---- cut files ---- */

static void
test_cut_data(void)
{
    static const struct {
        unsigned n_bytes; /* missing ones */
        bool is_damaged;
    } rows[] = {
        {1, false}, {511, false}, {512, true}, {CLUSTER - 1, true}, {CLUSTER, true}};

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
        g_autoptr(GByteArray) after = NULL;
        QedImage o;

        g_byte_array_set_size(bytes, bytes->len - rows[i].n_bytes);
        o = qed_image_open(bytes);
        g_assert_cmpint(qed_image_read(&o, 0), ==, 1);
        g_assert_cmpint(qed_image_read(&o, 3 * CLUSTER), ==,
                        rows[i].is_damaged ? -EIO : 3);
        /* Growth must not change its meaning. */
        g_assert_cmpint(qed_image_write(&o, TABLE_MAPS, 512, 9), ==,
                        rows[i].is_damaged ? -EIO : 0);
        g_assert_cmpint(qed_image_read(&o, 3 * CLUSTER), ==,
                        rows[i].is_damaged ? -EIO : 3);
        after = qed_image_close(&o);
        if (rows[i].is_damaged)
            g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
        else
            qed_image_assert_clean(after);
    }
}

static void
test_cut_l1(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GError) error = NULL;
    QedImage o;

    g_byte_array_set_size(bytes, L1_OFFSET + 1024);
    o = qed_image_open_above(bytes, true, 0, &error);
    g_assert_null(o.disk);
    test_util_check_error(&error, QIMG_ERROR_REFUSED,
                          "l1_table_offset: the L1 table is cut by the end of the "
                          "file, so the image must not be written to (mount it "
                          "read-only)");
    o = qed_image_open_above(bytes, false, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpint(map_at(&o, 0, 1).kind, ==, QIMG_RUN_DAMAGED); /* its L2 table */
    g_assert_cmpint(map_at(&o, TABLE_MAPS, 1).kind, ==, QIMG_RUN_UNALLOCATED);
    qimg_image_close(o.disk);
}

/* A cut, unreferenced cluster at the end is reused, as zeros. */
static void
test_cut_leak(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    guint len = bytes->len;
    QedImage o;

    g_byte_array_set_size(bytes, len + 1000);
    memset(bytes->data + len, 0xaa, 1000);
    o = qed_image_open(bytes);
    g_assert_cmpint(qed_image_write(&o, 10 * CLUSTER + 2000, 10, 5), ==, 0);
    g_assert_cmpint(qed_image_read(&o, 10 * CLUSTER), ==, 0);
    after = qed_image_close(&o);
    qed_image_assert_clean(after);
    g_assert_cmpuint(after->len, ==, len + CLUSTER);
}

/* ---- damage met by a writer ---- */

/* Nothing is written over tables, or to an image with a cluster of two owners. */
static void
test_refused_entries(void)
{
    static const uint64_t entries[] = {L1_OFFSET, L2_OFFSET, 2, DATA + CLUSTER,
                                       DATA + 100 * CLUSTER};

    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
        g_autoptr(GByteArray) after = NULL;
        QedImage o;

        qed_image_put(bytes, L2_OFFSET, entries[i]);
        o = qed_image_open(bytes);
        g_assert_cmpint(qed_image_write(&o, 100, 10, 9), ==, -EIO);
        g_assert_cmpint(qed_image_write(&o, 3 * CLUSTER, 10, 9), ==, -EROFS);
        g_assert_cmpint(qimg_image_discard(o.disk, 0, CLUSTER), ==, -EROFS);
        g_assert_cmpint(qimg_image_resize(o.disk, 2 * DISK_BYTES, NULL, NULL), ==,
                        -EROFS);
        after = qed_image_close(&o);
        g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
    }
}

/* ---- NEED_CHECK ---- */

static void
test_need_check(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(QED_FEATURE_NEED_CHECK);
    g_autoptr(GByteArray) unchanged = NULL, after = NULL;
    QedImage o;

    qed_image_put(bytes, L2_OFFSET, UINT64_C(1) << 40);
    qed_image_put(bytes, L1_OFFSET + 8, L2_OFFSET + 1);
    g_byte_array_set_size(bytes, bytes->len + 3 * CLUSTER); /* leaks */
    o = qed_image_open(bytes);
    g_assert_cmpint(qed_image_read(&o, 0), ==, -EIO);
    unchanged = qed_image_close(&o);
    g_assert_cmpmem(unchanged->data, unchanged->len, bytes->data, bytes->len);
    o = qed_image_open(bytes);
    g_assert_cmpint(qed_image_write(&o, CLUSTER, 10, 9), ==, 0);
    g_assert_cmpint(qed_image_read(&o, 0), ==, 0);
    g_assert_cmpint(qed_image_read(&o, TABLE_MAPS), ==, 0);
    g_assert_cmpint(qed_image_read(&o, 3 * CLUSTER), ==, 3);
    after = qed_image_close(&o);
    g_assert_cmpuint(qed_image_get(after, QED_HEADER_AT_FEATURES), ==, 0);
    g_assert_cmpuint(qed_image_get(after, L2_OFFSET), ==, 0);
    g_assert_cmpuint(qed_image_get(after, L1_OFFSET + 8), ==, 0);
    /* The lost cluster of an entry is not reused for new data. */
    g_assert_cmpuint(after->len, ==, bytes->len);
    g_assert_cmpuint(after->data[DATA], ==, 1);
    g_assert_cmpuint(qed_image_check(after).n_leaks, ==, 1 + 3);
}

/* If no entry had to be dropped, leaks at the end are cut off, others reused. */
static void
test_need_check_with_leaks(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(QED_FEATURE_NEED_CHECK);
    g_autoptr(GByteArray) after = NULL;
    guint len = bytes->len;
    QedImage o;

    qed_image_put(bytes, L2_OFFSET, 0);
    g_byte_array_set_size(bytes, len + 3 * CLUSTER);
    memset(bytes->data + len, 0xaa, 3 * CLUSTER);
    o = qed_image_open(bytes);
    g_assert_cmpint(qed_image_write(&o, 10 * CLUSTER + 100, 10, 9), ==, 0);
    g_assert_cmpint(qed_image_read(&o, 10 * CLUSTER), ==, 0);
    after = qed_image_close(&o);
    g_assert_cmpuint(after->len, ==, len);
    g_assert_cmpuint(qed_image_get(after, L2_OFFSET + 80), ==, DATA);
    qed_image_assert_clean(after);
}

/* An image that no repair can fix is left alone. */
static void
test_need_check_with_shared_clusters(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(QED_FEATURE_NEED_CHECK);
    g_autoptr(GByteArray) after = NULL;
    QedImage o;

    qed_image_put(bytes, L2_OFFSET, DATA + CLUSTER);
    qed_image_put(bytes, L2_OFFSET + 80, 7);
    o = qed_image_open(bytes);
    g_assert_cmpint(qed_image_write(&o, CLUSTER, 10, 9), ==, -EIO);
    after = qed_image_close(&o);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

/* The bit is set, durably, as long as clusters are taken. */
static void
test_need_check_is_set(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) meanwhile = NULL, after = NULL;
    QedImage o = qed_image_open(bytes);

    g_assert_cmpint(qed_image_write(&o, 0, 10, 9), ==, 0); /* in place */
    meanwhile = memory_storage_copy_all(o.file);
    g_assert_cmpuint(qed_image_get(meanwhile, QED_HEADER_AT_FEATURES), ==, 0);
    g_byte_array_unref(g_steal_pointer(&meanwhile));
    g_assert_cmpint(qed_image_write(&o, 10 * CLUSTER, 10, 9), ==, 0);
    meanwhile = memory_storage_copy_all(o.file);
    g_assert_cmpuint(qed_image_get(meanwhile, QED_HEADER_AT_FEATURES), ==,
                     QED_FEATURE_NEED_CHECK);
    after = qed_image_close(&o);
    qed_image_assert_clean(after);
}

static void
test_header_bits(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    QedImage o = qed_image_open(bytes);

    g_assert_cmpint(qed_image_read(&o, 0), ==, 1);
    g_assert_cmpint(qimg_image_flush(o.disk), ==, 0);
    after = qed_image_close(&o);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
    g_byte_array_unref(g_steal_pointer(&after));
    o = qed_image_open(bytes);
    g_assert_cmpint(qed_image_write(&o, 0, 1, 1), ==, 0);
    after = qed_image_close(&o);
    g_assert_cmphex(qed_image_get(after, QED_HEADER_AT_AUTOCLEAR), ==, 0);
    qed_image_put(bytes, QED_HEADER_AT_AUTOCLEAR, 0);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qed/map/entries", test_map_entries);
    g_test_add_func("/qed/map/header", test_map_header);
    g_test_add_func("/qed/map/tables", test_map_tables);
    g_test_add_func("/qed/map/runs", test_map_runs);
    g_test_add_func("/qed/cut/data", test_cut_data);
    g_test_add_func("/qed/cut/l1", test_cut_l1);
    g_test_add_func("/qed/cut/leak", test_cut_leak);
    g_test_add_func("/qed/refused-entries", test_refused_entries);
    g_test_add_func("/qed/need-check/repair", test_need_check);
    g_test_add_func("/qed/need-check/leaks", test_need_check_with_leaks);
    g_test_add_func("/qed/need-check/shared", test_need_check_with_shared_clusters);
    g_test_add_func("/qed/need-check/set", test_need_check_is_set);
    g_test_add_func("/qed/header-bits", test_header_bits);
    return g_test_run();
}
