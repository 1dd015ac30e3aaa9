/* SPDX-License-Identifier: GPL-2.0-or-later */
/* codec/qcow1-header.c, codec/qcow1-tables.h and format/qcow1: the smallest header that
 * breaks each rule, entries of all kinds, and runs across the borders of windows. */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "codec/qcow1-tables.h"
#include "format/drivers.h"
#include "memory-storage.h"
#include "test-util.h"

#define HEADER 48u

static void
put(uint8_t *bytes, size_t position, unsigned n_bytes, uint64_t value)
{
    for (unsigned i = 0; i < n_bytes; i++)
        bytes[position + i] = (uint8_t)(value >> (8 * (n_bytes - 1 - i)));
}

/* A sound header: clusters of 4 KiB, tables of 512 entries, L1 table behind it. */
static void
make_header(uint8_t *bytes, uint64_t size_bytes)
{
    memset(bytes, 0, HEADER);
    put(bytes, 0, 4, QCOW1_MAGIC);
    put(bytes, 4, 4, 1);
    put(bytes, 24, 8, size_bytes);
    put(bytes, 32, 1, 12);
    put(bytes, 33, 1, 9);
    put(bytes, 40, 8, HEADER);
}

static void
test_headers(void)
{
    static const struct {
        const char *name;
        QimgRule rule;
        size_t position;
        unsigned n_bytes; /* of the changed field; 0: none */
        uint64_t field;
        uint64_t value; /* named by the decoder */
    } rows[] = {
        {"sound", QIMG_RULE_OK, 0, 0, 0, 0},
        {"magic", QIMG_RULE_QCOW1_MAGIC, 0, 4, 0x514649fa, 0x514649fa},
        {"version-0", QIMG_RULE_QCOW1_VERSION, 4, 4, 0, 0},
        {"version-2", QIMG_RULE_QCOW1_VERSION, 4, 4, 2, 2},
        {"bits-8", QIMG_RULE_QCOW1_CLUSTER_BITS, 32, 1, 8, 8},
        {"bits-9", QIMG_RULE_OK, 32, 1, 9, 0},
        {"bits-16", QIMG_RULE_OK, 32, 1, 16, 0},
        {"bits-17", QIMG_RULE_QCOW1_CLUSTER_BITS, 32, 1, 17, 17},
        {"bits-255", QIMG_RULE_QCOW1_CLUSTER_BITS, 32, 1, 255, 255},
        {"l2-5", QIMG_RULE_QCOW1_L2_BITS, 33, 1, 5, 5},
        {"l2-6", QIMG_RULE_OK, 33, 1, 6, 0},
        {"l2-13", QIMG_RULE_OK, 33, 1, 13, 0},
        {"l2-14", QIMG_RULE_QCOW1_L2_BITS, 33, 1, 14, 14},
        {"padding", QIMG_RULE_OK, 34, 2, 0xffff, 0},
        {"aes", QIMG_RULE_OK, 36, 4, 1, 0},
        {"crypt-2", QIMG_RULE_QCOW1_CRYPT_METHOD, 36, 4, 2, 2},
        {"size-0", QIMG_RULE_QCOW1_SIZE, 24, 8, 0, 0},
        {"size-1", QIMG_RULE_QCOW1_SIZE, 24, 8, 1, 1},
        {"size-2", QIMG_RULE_OK, 24, 8, 2, 0},
        {"size-max", QIMG_RULE_VIRTUAL_SIZE, 24, 8, UINT64_MAX, UINT64_MAX},
        {"size-limit", QIMG_RULE_OK, 24, 8, (uint64_t)QCOW1_MAX_L1_ENTRIES << 21, 0},
        {"size-too-large", QIMG_RULE_VIRTUAL_SIZE, 24, 8,
         ((uint64_t)QCOW1_MAX_L1_ENTRIES << 21) + 1,
         ((uint64_t)QCOW1_MAX_L1_ENTRIES << 21) + 1},
        {"l1-40", QIMG_RULE_QCOW1_L1_OFFSET, 40, 8, 40, 40},
        {"l1-0", QIMG_RULE_QCOW1_L1_OFFSET, 40, 8, 0, 0},
        {"l1-odd", QIMG_RULE_QCOW1_L1_OFFSET, 40, 8, 52, 52},
        {"l1-far", QIMG_RULE_OK, 40, 8, (UINT64_C(1) << 63) - 32, 0},
        {"l1-too-far", QIMG_RULE_QCOW1_L1_OFFSET, 40, 8, (UINT64_C(1) << 63) - 24,
         (UINT64_C(1) << 63) - 24},
        {"l1-max", QIMG_RULE_QCOW1_L1_OFFSET, 40, 8, UINT64_MAX - 7, UINT64_MAX - 7},
        {"mtime", QIMG_RULE_OK, 20, 4, 12345, 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint8_t bytes[HEADER];
        Qcow1Header h;
        QimgDecode decoded;

        make_header(bytes, 5 * QIMG_MIB + 700);
        put(bytes, rows[i].position, rows[i].n_bytes, rows[i].field);
        decoded = qcow1_header_decode(bytes, sizeof bytes, &h);
        g_test_message("%s", rows[i].name);
        g_assert_cmpint(decoded.rule, ==, rows[i].rule);
        if (rows[i].rule)
            g_assert_cmpuint(decoded.value, ==, rows[i].value);
        else
            g_assert_cmpuint(h.size_bytes % 512, ==, 0);
    }
}

static void
test_fields(void)
{
    uint8_t bytes[HEADER];
    Qcow1Header h;

    make_header(bytes, 5 * QIMG_MIB + 700);
    put(bytes, 8, 8, 1000);
    put(bytes, 16, 4, 77);
    put(bytes, 20, 4, 99);
    g_assert_cmpint(qcow1_header_decode(bytes, sizeof bytes, &h).rule, ==, QIMG_RULE_OK);
    g_assert_cmpuint(h.size_bytes, ==, 5 * QIMG_MIB + 512);
    g_assert_cmpuint(h.n_l1_entries, ==, 3);
    g_assert_cmpuint(h.l1_table_offset, ==, HEADER);
    g_assert_cmpuint(h.backing_name_offset, ==, 1000);
    g_assert_cmpuint(h.backing_name_bytes, ==, 77);
    g_assert_cmpuint(h.mtime_s, ==, 99);
    g_assert_cmpuint(h.cluster_bits, ==, 12);
    g_assert_cmpuint(h.l2_bits, ==, 9);
    /* A table for the bytes behind the last whole sector, as QEMU counts. */
    put(bytes, 24, 8, 4 * QIMG_MIB + 1);
    g_assert_cmpint(qcow1_header_decode(bytes, sizeof bytes, &h).rule, ==, QIMG_RULE_OK);
    g_assert_cmpuint(h.size_bytes, ==, 4 * QIMG_MIB);
    g_assert_cmpuint(h.n_l1_entries, ==, 3);
    for (size_t n = 0; n < HEADER; n++) {
        QimgDecode decoded = qcow1_header_decode(bytes, n, &h);

        g_assert_cmpint(decoded.rule, ==, QIMG_RULE_SHORT_HEADER);
        g_assert_cmpuint(decoded.value, ==, n);
        g_assert_true(qcow1_header_probe(bytes, n) == (n >= 8));
    }
}

static void
test_entries(void)
{
    static const struct {
        unsigned cluster_bits;
        uint64_t word;
        QimgL2Entry entry;
    } rows[] = {
        {12, 0, {QIMG_L2_UNALLOCATED, QIMG_RULE_OK, 0, 0, 1}},
        {12, 4096, {QIMG_L2_DATA, QIMG_RULE_OK, 4096, 0, 1}},
        {12, 512, {QIMG_L2_DATA, QIMG_RULE_OK, 512, 0, 1}},
        {9,
         (UINT64_C(1) << 63) - 512,
         {QIMG_L2_DATA, QIMG_RULE_OK, (UINT64_C(1) << 63) - 512, 0, 1}},
        {12, 513, {QIMG_L2_DAMAGED, QIMG_RULE_QCOW1_DATA_UNALIGNED, 513, 0, 1}},
        {12, 1, {QIMG_L2_DAMAGED, QIMG_RULE_QCOW1_DATA_UNALIGNED, 1, 0, 1}},
        {12, UINT64_C(0x8018000000001001), {QIMG_L2_STREAM, QIMG_RULE_OK, 0x1001, 3, 1}},
        {9, UINT64_C(0x80c0000000000001), {QIMG_L2_STREAM, QIMG_RULE_OK, 1, 3, 1}},
        {16, UINT64_C(0x8001800000000001), {QIMG_L2_STREAM, QIMG_RULE_OK, 1, 3, 1}},
        {12,
         UINT64_MAX,
         {QIMG_L2_STREAM, QIMG_RULE_OK, (UINT64_C(1) << 51) - 1, 4095, 1}},
        {9, UINT64_MAX, {QIMG_L2_STREAM, QIMG_RULE_OK, (UINT64_C(1) << 54) - 1, 511, 1}},
        {16,
         UINT64_MAX,
         {QIMG_L2_STREAM, QIMG_RULE_OK, (UINT64_C(1) << 47) - 1, 65535, 1}},
        {12,
         UINT64_C(0x8000000000001001),
         {QIMG_L2_DAMAGED, QIMG_RULE_STREAM_EMPTY, 0x1001, 0, 1}},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        QimgL2Entry e = qcow1_l2_decode(rows[i].cluster_bits, rows[i].word);

        g_assert_cmpint(e.kind, ==, rows[i].entry.kind);
        g_assert_cmpint(e.rule, ==, rows[i].entry.rule);
        g_assert_cmpuint(e.host_offset, ==, rows[i].entry.host_offset);
        g_assert_cmpuint(e.stream_bytes, ==, rows[i].entry.stream_bytes);
        g_assert_cmpuint(e.n_subclusters, ==, rows[i].entry.n_subclusters);
    }
}

/* An open layer of an image in memory. */
typedef struct {
    SlotCache *tables;
    QimgStorage *storage; /* of @format */
    QimgFormat *format;
} Layer;

static void
layer_open(Layer *layer, const uint8_t *bytes, size_t n_bytes)
{
    GError *error = NULL;
    QimgFormatEnv env = {0};

    layer->tables = env.tables = slot_cache_new(TABLE_SLICE_BYTES, 64 * QIMG_KIB);
    layer->storage = memory_storage_new(bytes, n_bytes, "image");
    layer->format = qimg_driver_qcow1.open(layer->storage, &env, &error);
    g_assert_no_error(error);
}

static void
layer_close(Layer *layer)
{
    qimg_format_close(layer->format);
    slot_cache_free(layer->tables);
}

static QimgRun
map(Layer *layer, uint64_t guest_offset, uint64_t length_bytes)
{
    QimgRun run;

    g_assert_cmpint(qimg_driver_qcow1.map(layer->format, &layer->format->active,
                                          qimg_guest(guest_offset), length_bytes, &run),
                    ==, 0);
    return run;
}

/* Contiguous clusters are one run, across windows of the file and across tables. */
static void
test_long_runs(void)
{
    enum { TABLE = HEADER + 24, DATA = 16384, N = 1536 };
    size_t n_bytes = DATA + N * 4096u;
    g_autofree uint8_t *bytes = g_malloc0(n_bytes);
    Layer layer;
    QimgRun run;

    make_header(bytes, 3 * 512 * 4096);
    for (unsigned i = 0; i < 3; i++) /* the tables overlap each other's windows */
        put(bytes, HEADER + 8 * i, 8, TABLE + 8 * 512 * i);
    for (unsigned i = 0; i < N; i++)
        put(bytes, TABLE + 8 * i, 8, DATA + 4096 * i);
    layer_open(&layer, bytes, n_bytes);
    for (uint64_t at = 0; at < N * 4096; at += 70001) {
        run = map(&layer, at, N * 4096 - at);
        g_assert_cmpint(run.kind, ==, QIMG_RUN_DATA);
        g_assert_cmpuint(run.host_offset.v, ==, DATA + at);
        g_assert_cmpuint(run.length_bytes, ==, N * 4096 - at);
    }
    layer_close(&layer);
    put(bytes, TABLE + 8 * 700, 8, DATA + 512); /* one cluster elsewhere */
    layer_open(&layer, bytes, n_bytes);
    run = map(&layer, 100, N * 4096 - 100);
    g_assert_cmpuint(run.length_bytes, ==, 700 * 4096 - 100);
    run = map(&layer, 700 * 4096 + 100, N * 4096);
    g_assert_cmpuint(run.host_offset.v, ==, DATA + 512 + 100);
    g_assert_cmpuint(run.length_bytes, ==, 4096 - 100);
    layer_close(&layer);
}

/* A cut file: bytes before the end are there, everything else is damage. */
static void
test_cut(void)
{
    enum { TABLE = 4096, DATA = 8192 };
    uint8_t bytes[DATA + 3 * 4096] = {0};
    Layer layer;
    QimgRun run;

    make_header(bytes, 10 * 4096);
    put(bytes, HEADER, 8, TABLE);
    for (unsigned i = 0; i < 3; i++)
        put(bytes, TABLE + 8 * i, 8, DATA + 4096 * i);
    layer_open(&layer, bytes, DATA + 4096 + 1);
    run = map(&layer, 0, 10 * 4096);
    g_assert_cmpint(run.kind, ==, QIMG_RUN_DATA);
    g_assert_cmpuint(run.length_bytes, ==, 2 * 4096);
    run = map(&layer, 2 * 4096, 8 * 4096);
    g_assert_cmpint(run.kind, ==, QIMG_RUN_DAMAGED);
    g_assert_cmpint(run.rule, ==, QIMG_RULE_DATA_BEYOND_EOF);
    g_assert_cmpuint(run.length_bytes, ==, 4096);
    layer_close(&layer);
    layer_open(&layer, bytes, TABLE + 1); /* to a sector: 64 entries are there */
    run = map(&layer, 3 * 4096, 7 * 4096);
    g_assert_cmpint(run.kind, ==, QIMG_RUN_UNALLOCATED);
    layer_close(&layer);
    layer_open(&layer, bytes, TABLE);
    run = map(&layer, 0, 10 * 4096);
    g_assert_cmpint(run.kind, ==, QIMG_RUN_DAMAGED);
    g_assert_cmpint(run.rule, ==, QIMG_RULE_L2_BEYOND_EOF);
    g_assert_cmpuint(run.length_bytes, ==, 512 * 4096); /* all of the table at once */
    layer_close(&layer);
    make_header(bytes, UINT64_C(1) << 45); /* 2^24 entries, of which 58 are there */
    layer_open(&layer, bytes, 512);
    g_assert_cmpuint(layer.format->warnings->len, ==, 1);
    run = map(&layer, (UINT64_C(58) << 21) + 4096, UINT64_C(1) << 44);
    g_assert_cmpint(run.kind, ==, QIMG_RUN_DAMAGED);
    g_assert_cmpint(run.rule, ==, QIMG_RULE_L1_BEYOND_EOF);
    g_assert_cmpuint(run.length_bytes, ==,
                     (UINT64_C(1) << 45) - (UINT64_C(58) << 21) - 4096);
    layer_close(&layer);
}

/* The map returns the errors of the storage. */
static void
test_read_errors(void)
{
    uint8_t bytes[8192] = {0};
    Layer layer;
    QimgRun run;

    make_header(bytes, 10 * 4096);
    put(bytes, HEADER, 8, 4096);
    layer_open(&layer, bytes, sizeof bytes);
    memory_storage_fail(layer.storage, QIMG_IO_L2, 0, 1, EIO);
    g_assert_cmpint(qimg_driver_qcow1.map(layer.format, &layer.format->active,
                                          qimg_guest(0), 4096, &run),
                    ==, -EIO);
    g_assert_cmpint(map(&layer, 0, 4096).kind, ==, QIMG_RUN_UNALLOCATED);
    layer_close(&layer);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qcow1/headers", test_headers);
    g_test_add_func("/qcow1/fields", test_fields);
    g_test_add_func("/qcow1/entries", test_entries);
    g_test_add_func("/qcow1/long-runs", test_long_runs);
    g_test_add_func("/qcow1/cut", test_cut);
    g_test_add_func("/qcow1/read-errors", test_read_errors);
    return g_test_run();
}
