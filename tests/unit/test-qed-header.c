/* SPDX-License-Identifier: GPL-2.0-or-later */
/* codec/qed-header.c: each rule at its limits, and that encoded headers decode to the
 * same. Spec: qed sections 1 and 3. */
#include "codec/qed-header.h"

#include <string.h>

#include "base/endian.h"
#include "test-util.h"

/* The positions of the fields; the widths are those of the specification. */
enum {
    MAGIC = 0,
    CLUSTER_SIZE = 4,
    TABLE_SIZE = 8,
    HEADER_SIZE = 12,
    FEATURES = 16,
    COMPAT = 24,
    AUTOCLEAR = 32,
    L1_OFFSET = 40,
    IMAGE_SIZE = 48,
    NAME_OFFSET = 56,
    NAME_SIZE = 60,
};

typedef struct {
    unsigned position;
    uint64_t value;
} Field;

typedef struct {
    const char *name;
    QimgRule rule;
    uint64_t value;  /* named by the decoder */
    Field fields[4]; /* the difference from a sound header */
} Row;

#define MIB UINT64_C(0x100000)

static const Row rows[] = {
    {"sound", QIMG_RULE_OK, 0, {{0}}},
    {"magic", QIMG_RULE_QED_MAGIC, 0x51, {{MAGIC, 0x00444651}}},
    {"cluster-2048", QIMG_RULE_QED_CLUSTER_SIZE, 2048, {{CLUSTER_SIZE, 2048}}},
    {"cluster-4096", QIMG_RULE_OK, 0, {{CLUSTER_SIZE, 4096}}},
    {"cluster-5000", QIMG_RULE_QED_CLUSTER_SIZE, 5000, {{CLUSTER_SIZE, 5000}}},
    {"cluster-0", QIMG_RULE_QED_CLUSTER_SIZE, 0, {{CLUSTER_SIZE, 0}}},
    {"cluster-64M", QIMG_RULE_OK, 0, {{CLUSTER_SIZE, 64 * MIB}, {L1_OFFSET, 64 * MIB}}},
    {"cluster-128M", QIMG_RULE_QED_CLUSTER_SIZE, 128 * MIB, {{CLUSTER_SIZE, 128 * MIB}}},
    {"cluster-2G",
     QIMG_RULE_QED_CLUSTER_SIZE,
     UINT64_C(1) << 31,
     {{CLUSTER_SIZE, UINT64_C(1) << 31}}},
    {"table-0", QIMG_RULE_QED_TABLE_SIZE, 0, {{TABLE_SIZE, 0}}},
    {"table-1", QIMG_RULE_OK, 0, {{TABLE_SIZE, 1}}},
    {"table-3", QIMG_RULE_QED_TABLE_SIZE, 3, {{TABLE_SIZE, 3}}},
    {"table-16", QIMG_RULE_OK, 0, {{TABLE_SIZE, 16}}},
    {"table-32", QIMG_RULE_QED_TABLE_SIZE, 32, {{TABLE_SIZE, 32}}},
    {"table-max", QIMG_RULE_QED_TABLE_SIZE, UINT32_MAX, {{TABLE_SIZE, UINT32_MAX}}},
    {"header-0", QIMG_RULE_QED_HEADER_SIZE, 0, {{HEADER_SIZE, 0}}},
    {"header-2", QIMG_RULE_OK, 0, {{HEADER_SIZE, 2}, {L1_OFFSET, 131072}}},
    {"header-over-l1", QIMG_RULE_QED_L1_OFFSET, 65536, {{HEADER_SIZE, 2}}},
    {"header-max",
     QIMG_RULE_OK,
     0,
     {{HEADER_SIZE, UINT32_MAX}, {L1_OFFSET, UINT64_C(65536) << 32}}},
    {"header-max-over-l1", QIMG_RULE_QED_L1_OFFSET, 65536, {{HEADER_SIZE, 0x80000000}}},
    {"l1-0", QIMG_RULE_QED_L1_OFFSET, 0, {{L1_OFFSET, 0}}},
    {"l1-unaligned", QIMG_RULE_QED_L1_OFFSET, 66048, {{L1_OFFSET, 66048}}},
    {"l1-end", QIMG_RULE_OK, 0, {{L1_OFFSET, (UINT64_C(1) << 63) - UINT64_C(5) * 65536}}},
    {"l1-past-end",
     QIMG_RULE_QED_L1_OFFSET,
     (UINT64_C(1) << 63) - UINT64_C(4) * 65536,
     {{L1_OFFSET, (UINT64_C(1) << 63) - UINT64_C(4) * 65536}}},
    {"l1-max",
     QIMG_RULE_QED_L1_OFFSET,
     UINT64_MAX - 65535,
     {{L1_OFFSET, UINT64_MAX - 65535}}},
    {"size-0", QIMG_RULE_OK, 0, {{IMAGE_SIZE, 0}}},
    {"size-511", QIMG_RULE_QED_IMAGE_SIZE, 511, {{IMAGE_SIZE, 511}}},
    {"size-largest", QIMG_RULE_OK, 0, {{IMAGE_SIZE, UINT64_C(1) << 46}}},
    {"size-too-large",
     QIMG_RULE_QED_IMAGE_SIZE,
     (UINT64_C(1) << 46) + 512,
     {{IMAGE_SIZE, (UINT64_C(1) << 46) + 512}}},
    {"size-largest-table-1",
     QIMG_RULE_OK,
     0,
     {{IMAGE_SIZE, UINT64_C(1) << 42}, {TABLE_SIZE, 1}}},
    {"size-too-large-table-1",
     QIMG_RULE_QED_IMAGE_SIZE,
     (UINT64_C(1) << 42) + 512,
     {{IMAGE_SIZE, (UINT64_C(1) << 42) + 512}, {TABLE_SIZE, 1}}},
    /* Tables that map more than a file can hold. */
    {"size-largest-file",
     QIMG_RULE_OK,
     0,
     {{CLUSTER_SIZE, 64 * MIB},
      {L1_OFFSET, 64 * MIB},
      {IMAGE_SIZE, (UINT64_C(1) << 63) - 512}}},
    {"size-past-file",
     QIMG_RULE_QED_IMAGE_SIZE,
     UINT64_C(1) << 63,
     {{CLUSTER_SIZE, 64 * MIB}, {L1_OFFSET, 64 * MIB}, {IMAGE_SIZE, UINT64_C(1) << 63}}},
    {"name-without-bit", QIMG_RULE_OK, 0, {{NAME_OFFSET, UINT32_MAX}}},
    {"name-fits",
     QIMG_RULE_OK,
     0,
     {{FEATURES, 1}, {NAME_OFFSET, 65536 - 4095}, {NAME_SIZE, 4095}}},
    {"name-too-far",
     QIMG_RULE_QED_BACKING_NAME_OFFSET,
     65536 - 4094,
     {{FEATURES, 1}, {NAME_OFFSET, 65536 - 4094}, {NAME_SIZE, 4095}}},
    {"name-in-second-cluster",
     QIMG_RULE_OK,
     0,
     {{FEATURES, 1}, {NAME_OFFSET, 130000}, {HEADER_SIZE, 2}, {L1_OFFSET, 131072}}},
    {"name-4096",
     QIMG_RULE_QED_BACKING_NAME_SIZE,
     4096,
     {{FEATURES, 1}, {NAME_OFFSET, 64}, {NAME_SIZE, 4096}}},
    {"name-wraps",
     QIMG_RULE_QED_BACKING_NAME_OFFSET,
     UINT32_MAX,
     {{FEATURES, 1}, {NAME_OFFSET, UINT32_MAX}, {NAME_SIZE, 2}}},
    {"name-max",
     QIMG_RULE_QED_BACKING_NAME_SIZE,
     UINT32_MAX,
     {{FEATURES, 1}, {NAME_OFFSET, UINT32_MAX}, {NAME_SIZE, UINT32_MAX}}},
    {"other-bits", QIMG_RULE_OK, 0, {{COMPAT, UINT64_MAX}, {AUTOCLEAR, UINT64_MAX}}},
    /* Its writer may have changed the meaning of everything else. */
    {"feature-before-all",
     QIMG_RULE_OK,
     0,
     {{FEATURES, 8}, {CLUSTER_SIZE, 1}, {TABLE_SIZE, 0}, {IMAGE_SIZE, 1}}},
};

static void
put(uint8_t *bytes, unsigned position, uint64_t value)
{
    qimg_le64 wide = qimg_le64_set(value);
    bool is_wide = position >= FEATURES && position < NAME_OFFSET;

    memcpy(bytes + position, &wide, is_wide ? 8 : 4);
}

/* Clusters of 64 KiB, tables of 4, 64 MiB. */
static void
make_sound(uint8_t bytes[QED_HEADER_BYTES])
{
    memset(bytes, 0, QED_HEADER_BYTES);
    memcpy(bytes, "QED", 4);
    put(bytes, CLUSTER_SIZE, 65536);
    put(bytes, TABLE_SIZE, 4);
    put(bytes, HEADER_SIZE, 1);
    put(bytes, L1_OFFSET, 65536);
    put(bytes, IMAGE_SIZE, 64 * MIB);
}

static void
make(const Row *row, uint8_t bytes[QED_HEADER_BYTES])
{
    make_sound(bytes);
    for (size_t i = 0; i < G_N_ELEMENTS(row->fields); i++)
        if (row->fields[i].position != 0 || row->fields[i].value != 0)
            put(bytes, row->fields[i].position, row->fields[i].value);
}

static void
test_row(gconstpointer data)
{
    const Row *row = data;
    uint8_t bytes[QED_HEADER_BYTES], again[QED_HEADER_BYTES];
    QedHeader h = {.cluster_bits = 99};
    QimgDecode decoded;

    make(row, bytes);
    decoded = qed_header_decode(bytes, sizeof bytes, &h);
    g_assert_cmpint(decoded.rule, ==, row->rule);
    g_assert_cmpuint(decoded.value, ==, row->value);
    if (decoded.rule) {
        g_assert_cmpuint(h.cluster_bits, ==, 99);
        return;
    }
    if (h.features & ~QED_FEATURES_KNOWN)
        return;
    qed_header_encode(&h, again);
    if (!(h.features & QED_FEATURE_BACKING)) /* the name's fields have no meaning */
        memcpy(again + NAME_OFFSET, bytes + NAME_OFFSET, 8);
    g_assert_cmpmem(again, sizeof again, bytes, sizeof bytes);
}

static void
test_fields(void)
{
    uint8_t bytes[QED_HEADER_BYTES];
    QedHeader h;

    make_sound(bytes);
    put(bytes, FEATURES, 7);
    put(bytes, COMPAT, UINT64_C(0x1122334455667788));
    put(bytes, AUTOCLEAR, UINT64_C(0x99aabbccddeeff00));
    put(bytes, NAME_OFFSET, 64);
    put(bytes, NAME_SIZE, 8);
    g_assert_cmpint(qed_header_decode(bytes, sizeof bytes, &h).rule, ==, QIMG_RULE_OK);
    g_assert_cmpuint(h.cluster_bits, ==, 16);
    g_assert_cmpuint(h.table_clusters, ==, 4);
    g_assert_cmpuint(h.header_clusters, ==, 1);
    g_assert_cmpuint(h.features, ==, 7);
    g_assert_cmphex(h.compat_features, ==, UINT64_C(0x1122334455667788));
    g_assert_cmphex(h.autoclear_features, ==, UINT64_C(0x99aabbccddeeff00));
    g_assert_cmpuint(h.l1_table_offset, ==, 65536);
    g_assert_cmpuint(h.size_bytes, ==, 64 * MIB);
    g_assert_cmpuint(h.backing_name_offset, ==, 64);
    g_assert_cmpuint(h.backing_name_bytes, ==, 8);
    g_assert_cmpuint(qed_table_bytes(&h), ==, 262144);
    g_assert_cmpuint(qed_max_size_bytes(&h), ==, UINT64_C(1) << 46);
}

static void
test_short(void)
{
    uint8_t bytes[QED_HEADER_BYTES];
    QedHeader h;

    make_sound(bytes);
    for (size_t n = 0; n < sizeof bytes; n++) {
        g_autofree uint8_t *exact = g_memdup2(bytes, n);
        QimgDecode decoded = qed_header_decode(exact, n, &h);

        g_assert_cmpint(decoded.rule, ==,
                        n < 4 ? QIMG_RULE_QED_MAGIC : QIMG_RULE_SHORT_HEADER);
        g_assert_cmpint(qed_header_probe(exact, n), ==, n >= 4);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/qed-header/%s", rows[i].name);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/qed-header/fields", test_fields);
    g_test_add_func("/qed-header/short", test_short);
    return g_test_run();
}
