/* SPDX-License-Identifier: GPL-2.0-or-later */
/* format/qed: images in memory, sound, cut and damaged; what each failing call leaves,
 * and what the end of writing leaves. Content beside QEMU is tests/oracle/test_qed.py's.
 */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "codec/qed-header.h"
#include "image/image.h"
#include "memory-storage.h"
#include "test-util.h"

/* Small images: header, L1 table, L2 table, data; all of one cluster. A table has 512
 * entries and maps 2 MiB. */
#define CLUSTER    4096u
#define L1_OFFSET  (1 * CLUSTER)
#define L2_OFFSET  (2 * CLUSTER)
#define DATA       (3 * CLUSTER)
#define TABLE_MAPS (512 * CLUSTER)
#define DISK_BYTES (8 * TABLE_MAPS)
#define AUTOCLEAR  UINT64_C(0xf0)
#define COMPAT     UINT64_C(0x8000000000000001)

static void
put_le64(GByteArray *bytes, uint64_t offset, uint64_t value)
{
    qimg_le64 field = qimg_le64_set(value);

    memcpy(bytes->data + offset, &field, sizeof field);
}

static uint64_t
le64_at(const GByteArray *bytes, uint64_t offset)
{
    qimg_le64 field;

    g_assert_cmpuint(offset + 8, <=, bytes->len);
    memcpy(&field, bytes->data + offset, sizeof field);
    return qimg_le64_get(field);
}

/* An image with @n_data clusters of data, of which number i holds bytes of i + 1, and L2
 * entries for the disk's first clusters. */
static GByteArray *
build(uint64_t features, unsigned n_data, const uint64_t *entries, size_t n_entries)
{
    GByteArray *bytes = g_byte_array_new();
    const QedHeader h = {
        .cluster_bits = 12,
        .table_clusters = 1,
        .header_clusters = 1,
        .features = features,
        .compat_features = COMPAT,
        .autoclear_features = AUTOCLEAR,
        .l1_table_offset = L1_OFFSET,
        .size_bytes = DISK_BYTES,
    };

    g_byte_array_set_size(bytes, DATA + n_data * CLUSTER);
    memset(bytes->data, 0, bytes->len);
    qed_header_encode(&h, bytes->data);
    put_le64(bytes, L1_OFFSET, L2_OFFSET);
    for (size_t i = 0; i < n_entries; i++)
        put_le64(bytes, L2_OFFSET + i * 8, entries[i]);
    for (unsigned i = 0; i < n_data; i++)
        memset(bytes->data + DATA + i * CLUSTER, (int)i + 1, CLUSTER);
    return bytes;
}

/* Two clusters of data side by side, a zero, one of data. */
static const uint64_t sound[] = {DATA, DATA + CLUSTER, 1, DATA + 2 * CLUSTER};

static GByteArray *
build_sound(uint64_t features)
{
    return build(features, 3, sound, G_N_ELEMENTS(sound));
}

/* ---- images open ---- */

typedef struct {
    QimgStorage *file; /* the chain's */
    QimgFormat *layer;
    QimgImage *disk;
} Open;

/* Above @base_bytes bytes of 0xbb, where that is not 0. */
static Open
open_above(const GByteArray *bytes, bool is_writable, size_t base_bytes, GError **error)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autofree uint8_t *base = g_malloc(base_bytes + 1);
    QimgStorage *storages[2] = {
        memory_storage_new_writable(bytes->data, bytes->len, "image")};
    Open o = {.file = storages[0]};
    QimgChain *chain;

    memset(base, 0xbb, base_bytes);
    if (base_bytes > 0)
        storages[1] = memory_storage_new(base, base_bytes, "base");
    options->is_writable = is_writable;
    chain = chain_open_storages(storages, base_bytes > 0 ? 2 : 1, options, error);
    if (!chain)
        return (Open){0};
    o.layer = chain->layers[0];
    o.disk = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return o;
}

static Open
open_bytes(const GByteArray *bytes)
{
    g_autoptr(GError) error = NULL;
    Open o = open_above(bytes, true, 0, &error);

    g_assert_no_error(error);
    return o;
}

/* Ends writing, as the close that follows does; the file as it is then. */
static GByteArray *
close_image(Open *o)
{
    GByteArray *bytes;

    o->layer->driver->end_writing(o->layer);
    bytes = memory_storage_copy_all(o->file);
    qimg_image_close(o->disk);
    return bytes;
}

static int
write_value(Open *o, uint64_t guest_offset, uint64_t n_bytes, int value)
{
    g_autofree uint8_t *data = g_malloc(n_bytes);

    memset(data, value, n_bytes);
    return qimg_image_write(o->disk, guest_offset, data, n_bytes);
}

/* The byte at @guest_offset, or -errno. */
static int
read_byte(const Open *o, uint64_t guest_offset)
{
    uint8_t byte;
    int err = qimg_image_read(o->disk, guest_offset, &byte, 1);

    return err ? err : byte;
}

/* What a check finds in @bytes. */
static QimgCheckResult
check(const GByteArray *bytes)
{
    TableCache *tables = slot_cache_new(TABLE_SLICE_BYTES, QIMG_MIB);
    const QimgFormatEnv env = {.tables = tables, .for_check = true};
    g_autoptr(QimgCheckResult) result = NULL;
    g_autoptr(GError) error = NULL;
    QimgFormat *format = qimg_driver_qed.open(
        memory_storage_new(bytes->data, bytes->len, "image"), &env, &error);
    QimgCheckResult copy;

    g_assert_no_error(error);
    result = image_check(format, "image", QIMG_REPAIR_NONE, NULL, NULL, &error);
    g_assert_no_error(error);
    copy = *result;
    qimg_format_close(format);
    slot_cache_free(tables);
    return copy;
}

static void
assert_clean(const GByteArray *bytes)
{
    QimgCheckResult r = check(bytes);

    g_assert_cmpuint(r.n_corruptions, ==, 0);
    g_assert_cmpuint(r.n_check_errors, ==, 0);
    g_assert_cmpuint(r.n_leaks, ==, 0);
    g_assert_false(r.is_dirty);
}

/* ---- mapping ---- */

static QimgRun
map_at(const Open *o, uint64_t guest_offset, uint64_t length_bytes)
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
        {L1_OFFSET, QIMG_RUN_DATA},             /* reading does not mind */
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
        g_autoptr(GByteArray) bytes = build(0, 3, &rows[i].entry, 1);
        Open o = open_bytes(bytes);
        QimgRun run = map_at(&o, 100, 1);

        g_test_message("entry 0x%" PRIx64, rows[i].entry);
        g_assert_cmpint(run.kind, ==, rows[i].kind);
        if (run.kind == QIMG_RUN_DATA)
            g_assert_cmpuint(run.host_offset.v, ==, rows[i].entry + 100);
        if (run.kind == QIMG_RUN_DAMAGED)
            g_assert_cmpint(read_byte(&o, 0), ==, -EIO);
        qimg_image_close(o.disk);
    }
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
        g_autoptr(GByteArray) bytes = build_sound(0);
        Open o;

        put_le64(bytes, L1_OFFSET, damaged[i]);
        o = open_bytes(bytes);
        g_assert_cmpint(map_at(&o, 5, 1).kind, ==, QIMG_RUN_DAMAGED);
        g_assert_cmpuint(map_at(&o, 5, 1).length_bytes, ==, TABLE_MAPS - 5);
        g_assert_cmpint(map_at(&o, TABLE_MAPS, 1).kind, ==, QIMG_RUN_UNALLOCATED);
        qimg_image_close(o.disk);
    }
}

/* Runs are as long as they can be. */
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
    g_autoptr(GByteArray) bytes = build(0, 3, entries, G_N_ELEMENTS(entries));
    Open o = open_bytes(bytes);

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
        unsigned n_bytes; /* that are missing */
        bool is_damaged;
    } rows[] = {
        {1, false}, {511, false}, {512, true}, {CLUSTER - 1, true}, {CLUSTER, true}};

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GByteArray) bytes = build_sound(0);
        g_autoptr(GByteArray) after = NULL;
        Open o;

        g_byte_array_set_size(bytes, bytes->len - rows[i].n_bytes);
        o = open_bytes(bytes);
        g_assert_cmpint(read_byte(&o, 0), ==, 1);
        g_assert_cmpint(read_byte(&o, 3 * CLUSTER), ==, rows[i].is_damaged ? -EIO : 3);
        /* Growth must not make something else of it. */
        g_assert_cmpint(write_value(&o, TABLE_MAPS, 512, 9), ==,
                        rows[i].is_damaged ? -EIO : 0);
        g_assert_cmpint(read_byte(&o, 3 * CLUSTER), ==, rows[i].is_damaged ? -EIO : 3);
        after = close_image(&o);
        if (rows[i].is_damaged)
            g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
        else
            assert_clean(after);
    }
}

static void
test_cut_l1(void)
{
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GError) error = NULL;
    Open o;

    g_byte_array_set_size(bytes, L1_OFFSET + 1024);
    o = open_above(bytes, true, 0, &error);
    g_assert_null(o.disk);
    test_util_check_error(&error, QIMG_ERROR_REFUSED,
                          "l1_table_offset: the L1 table is cut by the end of the "
                          "file, so the image must not be written to (mount it "
                          "read-only)");
    o = open_above(bytes, false, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpint(map_at(&o, 0, 1).kind, ==, QIMG_RUN_DAMAGED); /* its L2 table */
    g_assert_cmpint(map_at(&o, TABLE_MAPS, 1).kind, ==, QIMG_RUN_UNALLOCATED);
    qimg_image_close(o.disk);
}

/* A cluster at the end that is cut and that nothing refers to is used anew, as zeros. */
static void
test_cut_leak(void)
{
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    guint len = bytes->len;
    Open o;

    g_byte_array_set_size(bytes, len + 1000);
    memset(bytes->data + len, 0xaa, 1000);
    o = open_bytes(bytes);
    g_assert_cmpint(write_value(&o, 10 * CLUSTER + 2000, 10, 5), ==, 0);
    g_assert_cmpint(read_byte(&o, 10 * CLUSTER), ==, 0);
    after = close_image(&o);
    assert_clean(after);
    g_assert_cmpuint(after->len, ==, len + CLUSTER);
}

/* ---- damage met by a writer ---- */

/* Nothing is written over tables, or into an image with clusters of two owners. */
static void
test_refused_entries(void)
{
    static const uint64_t entries[] = {L1_OFFSET, L2_OFFSET, 2, DATA + CLUSTER,
                                       DATA + 100 * CLUSTER};

    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        g_autoptr(GByteArray) bytes = build_sound(0);
        g_autoptr(GByteArray) after = NULL;
        Open o;

        put_le64(bytes, L2_OFFSET, entries[i]);
        o = open_bytes(bytes);
        g_assert_cmpint(write_value(&o, 100, 10, 9), ==, -EIO);
        g_assert_cmpint(write_value(&o, 3 * CLUSTER, 10, 9), ==, -EROFS);
        g_assert_cmpint(qimg_image_discard(o.disk, 0, CLUSTER), ==, -EROFS);
        g_assert_cmpint(qimg_image_resize(o.disk, 2 * DISK_BYTES), ==, -EROFS);
        after = close_image(&o);
        g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
    }
}

/* ---- NEED_CHECK ---- */

static void
test_need_check(void)
{
    g_autoptr(GByteArray) bytes = build_sound(QED_FEATURE_NEED_CHECK);
    g_autoptr(GByteArray) unchanged = NULL, after = NULL;
    guint len = bytes->len;
    Open o;

    put_le64(bytes, L2_OFFSET, UINT64_C(1) << 40);
    put_le64(bytes, L1_OFFSET + 8, L2_OFFSET + 1);
    g_byte_array_set_size(bytes, len + 3 * CLUSTER); /* leaks */
    o = open_bytes(bytes);
    g_assert_cmpint(read_byte(&o, 0), ==, -EIO);
    unchanged = close_image(&o);
    g_assert_cmpmem(unchanged->data, unchanged->len, bytes->data, bytes->len);
    o = open_bytes(bytes);
    g_assert_cmpint(write_value(&o, CLUSTER, 10, 9), ==, 0);
    g_assert_cmpint(read_byte(&o, 0), ==, 0);
    g_assert_cmpint(read_byte(&o, TABLE_MAPS), ==, 0);
    g_assert_cmpint(read_byte(&o, 3 * CLUSTER), ==, 3);
    after = close_image(&o);
    g_assert_cmpuint(after->len, ==, len);
    g_assert_cmpuint(le64_at(after, QED_HEADER_AT_FEATURES), ==, 0);
    g_assert_cmpuint(le64_at(after, L2_OFFSET), ==, 0);
    g_assert_cmpuint(le64_at(after, L1_OFFSET + 8), ==, 0);
    g_assert_cmpuint(check(after).n_leaks, ==, 1); /* what the entry had lost */
}

/* What no repair can mend is left alone. */
static void
test_need_check_with_shared_clusters(void)
{
    g_autoptr(GByteArray) bytes = build_sound(QED_FEATURE_NEED_CHECK);
    g_autoptr(GByteArray) after = NULL;
    Open o;

    put_le64(bytes, L2_OFFSET, DATA + CLUSTER);
    put_le64(bytes, L2_OFFSET + 80, 7);
    o = open_bytes(bytes);
    g_assert_cmpint(write_value(&o, CLUSTER, 10, 9), ==, -EIO);
    after = close_image(&o);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

/* The bit is there, durably, as long as clusters are taken. */
static void
test_need_check_is_set(void)
{
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) meanwhile = NULL, after = NULL;
    Open o = open_bytes(bytes);

    g_assert_cmpint(write_value(&o, 0, 10, 9), ==, 0); /* in place */
    meanwhile = memory_storage_copy_all(o.file);
    g_assert_cmpuint(le64_at(meanwhile, QED_HEADER_AT_FEATURES), ==, 0);
    g_byte_array_unref(g_steal_pointer(&meanwhile));
    g_assert_cmpint(write_value(&o, 10 * CLUSTER, 10, 9), ==, 0);
    meanwhile = memory_storage_copy_all(o.file);
    g_assert_cmpuint(le64_at(meanwhile, QED_HEADER_AT_FEATURES), ==,
                     QED_FEATURE_NEED_CHECK);
    after = close_image(&o);
    assert_clean(after);
}

static void
test_header_bits(void)
{
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    Open o = open_bytes(bytes);

    g_assert_cmpint(read_byte(&o, 0), ==, 1);
    g_assert_cmpint(qimg_image_flush(o.disk), ==, 0);
    after = close_image(&o);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
    g_byte_array_unref(g_steal_pointer(&after));
    o = open_bytes(bytes);
    g_assert_cmpint(write_value(&o, 0, 1, 1), ==, 0);
    after = close_image(&o);
    g_assert_cmphex(le64_at(after, QED_HEADER_AT_AUTOCLEAR), ==, 0);
    put_le64(bytes, QED_HEADER_AT_AUTOCLEAR, 0);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

/* ---- allocation ---- */

/* The file ends behind what was taken: data, and the table that it needed. */
static void
test_file_end(void)
{
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    Open o = open_bytes(bytes);

    g_assert_cmpint(write_value(&o, 10 * CLUSTER, 2 * CLUSTER, 9), ==, 0);
    g_assert_cmpint(write_value(&o, TABLE_MAPS + 5, 1, 9), ==, 0);
    after = close_image(&o);
    g_assert_cmpuint(after->len, ==, bytes->len + 4 * CLUSTER);
    assert_clean(after);
}

/* Clusters of a write that failed are taken by the next one, as zeros. */
static void
test_returned(void)
{
    const MemoryFault fault = {.calls = MEMORY_WRITE,
                               .purpose = QIMG_IO_DATA,
                               .n_fails = 1,
                               .errnum = ENOSPC,
                               .n_bytes_before = 5000};
    const MemoryFault rest = {.calls = MEMORY_WRITE,
                              .purpose = QIMG_IO_DATA,
                              .n_until = 1,
                              .n_fails = 1,
                              .errnum = ENOSPC};
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    Open o = open_bytes(bytes);

    memory_storage_add_fault(o.file, &fault);
    memory_storage_add_fault(o.file, &rest);
    g_assert_cmpint(write_value(&o, 10 * CLUSTER, 2 * CLUSTER, 9), ==, -ENOSPC);
    g_assert_cmpint(read_byte(&o, 10 * CLUSTER), ==, 0);
    g_assert_cmpint(write_value(&o, 10 * CLUSTER + 100, 1, 9), ==, 0);
    g_assert_cmpint(write_value(&o, 20 * CLUSTER + 100, 1, 9), ==, 0);
    g_assert_cmpint(read_byte(&o, 10 * CLUSTER), ==, 0);
    g_assert_cmpint(read_byte(&o, 20 * CLUSTER), ==, 0);
    after = close_image(&o);
    g_assert_cmpuint(after->len, ==, bytes->len + 2 * CLUSTER);
    assert_clean(after);
}

/* Nothing was taken in the end: the file is as long as it was. */
static void
test_all_returned(void)
{
    const MemoryFault fault = {
        .calls = MEMORY_WRITE, .purpose = QIMG_IO_DATA, .n_fails = 1, .errnum = ENOSPC};
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    Open o = open_bytes(bytes);

    memory_storage_add_fault(o.file, &fault);
    g_assert_cmpint(write_value(&o, 10 * CLUSTER, 10, 9), ==, -ENOSPC);
    after = close_image(&o);
    put_le64(bytes, QED_HEADER_AT_AUTOCLEAR, 0);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

/* Tables that are read in parts, in a file with holes. */
static void
test_large_tables(void)
{
    const QimgCreateOptions options = {
        .size_bytes = UINT64_C(1) << 40, .cluster_bits = 20, .table_clusters = 16};
    QimgStorage *file = memory_storage_new_writable("", 0, "new");
    g_autoptr(GByteArray) bytes = NULL, after = NULL;
    g_autoptr(GError) error = NULL;
    Open o;

    g_assert_true(qimg_driver_qed.create(file, &options, &error));
    g_assert_no_error(error);
    bytes = memory_storage_copy_all(file);
    qimg_storage_close(file);
    for (int round = 1; round <= 2; round++) {
        o = open_bytes(bytes);
        g_assert_cmpint(write_value(&o, (UINT64_C(1) << 39) + 100, 10, round), ==, 0);
        g_assert_cmpint(read_byte(&o, (UINT64_C(1) << 39) + 100), ==, round);
        after = close_image(&o);
        assert_clean(after);
        g_byte_array_unref(bytes);
        bytes = g_steal_pointer(&after);
    }
    g_assert_cmpuint(bytes->len, ==, (1 + 16 + 16 + 1) << 20);
}

/* ---- zeros, size ---- */

static void
test_zero(void)
{
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    g_autoptr(GError) error = NULL;
    Open o = open_above(bytes, true, 20 * CLUSTER, &error);

    g_assert_no_error(error);
    g_assert_cmpint(read_byte(&o, 5 * CLUSTER), ==, 0xbb);
    g_assert_cmpint(qimg_image_discard(o.disk, 0, 10 * CLUSTER), ==, 0);
    for (unsigned i = 0; i < 10; i++)
        g_assert_cmpint(read_byte(&o, i * CLUSTER), ==, 0);
    g_assert_cmpint(read_byte(&o, 10 * CLUSTER), ==, 0xbb);
    g_assert_cmpint(qimg_image_discard(o.disk, 30 * CLUSTER, CLUSTER), ==, 0);
    after = close_image(&o);
    /* Data stay where they are, as zeros; what shows the backing file becomes a zero. */
    g_assert_cmpuint(le64_at(after, L2_OFFSET), ==, DATA);
    g_assert_cmpuint(after->data[DATA], ==, 0);
    g_assert_cmpuint(le64_at(after, L2_OFFSET + 8 * 4), ==, 1);
    g_assert_cmpuint(le64_at(after, L2_OFFSET + 8 * 9), ==, 1);
    g_assert_cmpuint(le64_at(after, L2_OFFSET + 8 * 10), ==, 0);
    g_assert_cmpuint(le64_at(after, L2_OFFSET + 8 * 30), ==, 0); /* nothing below it */
    assert_clean(after);
}

/* What is refused changes nothing, not even what a first change does. */
static void
test_resize_refused(void)
{
    g_autoptr(GByteArray) bytes = build_sound(QED_FEATURE_NEED_CHECK);
    g_autoptr(GByteArray) after = NULL;
    Open o = open_bytes(bytes);

    g_assert_cmpint(qimg_image_resize(o.disk, DISK_BYTES - 512), ==, -EOPNOTSUPP);
    g_assert_cmpint(qimg_image_resize(o.disk, 0), ==, -EOPNOTSUPP);
    g_assert_cmpint(qimg_image_resize(o.disk, (UINT64_C(1) << 30) + 512), ==, -EFBIG);
    g_assert_cmpuint(qimg_image_get_size_bytes(o.disk), ==, DISK_BYTES);
    after = close_image(&o);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

static void
test_resize(void)
{
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    Open o = open_bytes(bytes);

    g_assert_cmpint(qimg_image_resize(o.disk, (UINT64_C(1) << 30) - 100), ==, 0);
    g_assert_cmpuint(qimg_image_get_size_bytes(o.disk), ==, UINT64_C(1) << 30);
    g_assert_cmpint(write_value(&o, (UINT64_C(1) << 30) - 1, 1, 9), ==, 0);
    after = close_image(&o);
    g_assert_cmpuint(le64_at(after, QED_HEADER_AT_IMAGE_SIZE), ==, UINT64_C(1) << 30);
    assert_clean(after);
}

/* ---- failing calls ---- */

/* What a disk holds at the places that run_script changes. */
typedef struct {
    int values[5];
} Model;

static const uint64_t places[] = {0, 50 * CLUSTER, 51 * CLUSTER, TABLE_MAPS, 3 * CLUSTER};

/* Changes that need every kind of call; the model follows those that succeed. */
static void
run_script(Open *o, Model *m)
{
    *m = (Model){{1, 0xbb, 0xbb, 0xbb, 3}};
    for (unsigned i = 0; i < 4; i++)
        if (write_value(o, places[i], 100, 10 + (int)i) == 0)
            m->values[i] = 10 + (int)i;
    if (qimg_image_discard(o->disk, 3 * CLUSTER, 2 * CLUSTER) == 0)
        m->values[4] = 0;
    else
        m->values[4] = -1; /* zeros or what was there */
    (void)qimg_image_flush(o->disk);
    (void)qimg_image_resize(o->disk, DISK_BYTES + TABLE_MAPS);
}

static void
check_model(const GByteArray *bytes, const Model *m, size_t base_bytes)
{
    g_autoptr(GError) error = NULL;
    Open o = open_above(bytes, false, base_bytes, &error);

    g_assert_no_error(error);
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        int found = read_byte(&o, places[i]);

        if (m->values[i] < 0)
            g_assert_true(found == 0 || found == 3);
        else
            g_assert_cmpint(found, ==, m->values[i]);
    }
    qimg_image_close(o.disk);
}

/* Each call in turn fails once, or from then on: at worst clusters leak, and what was
 * acknowledged is there. */
static void
test_failing_calls(void)
{
    static const int errnums[] = {EIO, ENOSPC};
    const size_t base_bytes = 2 * TABLE_MAPS;
    unsigned n_cases = 0;

    for (unsigned variant = 0; variant < 4; variant++)
        for (uint64_t n = 0;; n++) {
            g_autoptr(GByteArray) bytes = build_sound(0);
            g_autoptr(GByteArray) after = NULL;
            g_autoptr(GError) error = NULL;
            const MemoryFault fault = {.calls = MEMORY_CHANGES | MEMORY_SYNC,
                                       .purpose = MEMORY_ANY_PURPOSE,
                                       .n_until = n,
                                       .n_fails = variant & 1 ? UINT64_MAX : 1,
                                       .errnum = errnums[variant / 2]};
            Open o = open_above(bytes, true, base_bytes, &error);
            QimgCheckResult found;
            bool is_over;
            Model model;

            g_assert_no_error(error);
            memory_storage_add_fault(o.file, &fault);
            run_script(&o, &model);
            o.layer->driver->end_writing(o.layer);
            is_over = memory_storage_n_calls(o.file, fault.calls) <= n;
            memory_storage_clear_faults(o.file);
            after = memory_storage_copy_all(o.file);
            qimg_image_close(o.disk);
            g_test_message("variant %u, call %" PRIu64, variant, n);
            found = check(after);
            g_assert_cmpuint(found.n_corruptions, ==, 0);
            g_assert_cmpuint(found.n_check_errors, ==, 0);
            check_model(after, &model, base_bytes);
            n_cases++;
            if (is_over) {
                assert_clean(after);
                break;
            }
        }
    g_assert_cmpuint(n_cases, >, 60);
}

/* A table that cannot be read: EIO there, and nothing is written. */
static void
test_unreadable_table(void)
{
    g_autoptr(GByteArray) bytes = build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    Open o = open_bytes(bytes);

    memory_storage_fail(o.file, QIMG_IO_L2, 0, 2, EIO);
    g_assert_cmpint(read_byte(&o, 0), ==, -EIO);
    g_assert_cmpint(write_value(&o, 0, 10, 9), ==, -EIO);
    g_assert_cmpint(read_byte(&o, 0), ==, 1);
    g_assert_cmpint(write_value(&o, 0, 10, 9), ==, -EROFS);
    after = close_image(&o);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qed/map/entries", test_map_entries);
    g_test_add_func("/qed/map/tables", test_map_tables);
    g_test_add_func("/qed/map/runs", test_map_runs);
    g_test_add_func("/qed/cut/data", test_cut_data);
    g_test_add_func("/qed/cut/l1", test_cut_l1);
    g_test_add_func("/qed/cut/leak", test_cut_leak);
    g_test_add_func("/qed/refused-entries", test_refused_entries);
    g_test_add_func("/qed/need-check/repair", test_need_check);
    g_test_add_func("/qed/need-check/shared", test_need_check_with_shared_clusters);
    g_test_add_func("/qed/need-check/set", test_need_check_is_set);
    g_test_add_func("/qed/header-bits", test_header_bits);
    g_test_add_func("/qed/alloc/file-end", test_file_end);
    g_test_add_func("/qed/alloc/returned", test_returned);
    g_test_add_func("/qed/alloc/all-returned", test_all_returned);
    g_test_add_func("/qed/large-tables", test_large_tables);
    g_test_add_func("/qed/zero", test_zero);
    g_test_add_func("/qed/resize/refused", test_resize_refused);
    g_test_add_func("/qed/resize/grow", test_resize);
    g_test_add_func("/qed/failing-calls", test_failing_calls);
    g_test_add_func("/qed/unreadable-table", test_unreadable_table);
    return g_test_run();
}
