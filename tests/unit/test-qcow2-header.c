/* SPDX-License-Identifier: GPL-2.0-or-later */
/* codec/qcow2-header.c: the smallest header that breaks each rule, the extensions and the
 * feature names. test-open-errors.c checks the texts for the user. */
#include "codec/qcow2-header.h"

#include "codec/qcow2-geometry.h"
#include "image-builder.h"
#include "test-util.h"

typedef struct {
    const char *name;
    QimgRule rule;
    void (*spoil)(BuilderHeader *h); /* NULL: unchanged */
    uint32_t version;
    uint32_t cluster_bits;
    uint64_t value; /* named by the decoder */
} Row;

#define SPOIL(name, statement)                                                           \
    static void name(BuilderHeader *h)                                                   \
    {                                                                                    \
        statement;                                                                       \
    }

SPOIL(bad_magic, h->magic = 0x514649fa)
SPOIL(version_0, h->version = 0)
SPOIL(version_1, h->version = 1)
SPOIL(version_4, h->version = 4)
SPOIL(bits_8, h->cluster_bits = 8)
SPOIL(bits_22, h->cluster_bits = 22)
SPOIL(bits_0, h->cluster_bits = 0)
SPOIL(bits_64, h->cluster_bits = 64)
SPOIL(bits_max, h->cluster_bits = UINT32_MAX)
SPOIL(length_103, h->header_length = 103)
SPOIL(length_96, h->header_length = 96)
SPOIL(length_0, h->header_length = 0)
SPOIL(length_108, h->header_length = 108)
SPOIL(length_long, h->header_length = 520)
SPOIL(length_max, h->header_length = UINT32_MAX - 7)
SPOIL(name_far, h->backing_file_offset = 513)
SPOIL(name_max, h->backing_file_offset = UINT64_MAX)
SPOIL(type_2, {
    h->compression_type = 2;
    h->incompatible_features = 8;
})
SPOIL(type_without_bit, h->compression_type = 1)
SPOIL(bit_without_type, h->incompatible_features = 8)
SPOIL(bit_without_field, {
    h->incompatible_features = 8;
    h->compression_type = 1;
    h->header_length = 104;
})
SPOIL(subclusters_13, h->incompatible_features = 16)
SPOIL(order_7, h->refcount_order = 7)
SPOIL(crypt_3, h->crypt_method = 3)
SPOIL(no_reftable, h->refcount_table_clusters = 0)
SPOIL(reftable_large, h->refcount_table_clusters = (8u << 20) / 512 + 1)
SPOIL(reftable_max, h->refcount_table_clusters = UINT32_MAX)
SPOIL(reftable_odd, h->refcount_table_offset = 513)
SPOIL(reftable_0, h->refcount_table_offset = 0)
SPOIL(reftable_end, h->refcount_table_offset = (UINT64_C(1) << 63) - 512)
SPOIL(snapshots_65537, {
    h->nb_snapshots = 65537;
    h->snapshots_offset = 1024;
})
SPOIL(snapshots_odd, h->snapshots_offset = 1)
SPOIL(snapshots_0, h->nb_snapshots = 1)
SPOIL(snapshots_end, {
    h->nb_snapshots = 13;
    h->snapshots_offset = (UINT64_C(1) << 63) - 512;
})
SPOIL(l1_large, h->l1_size = (32u << 20) / 8 + 1)
SPOIL(l1_odd, h->l1_table_offset = 1025)
SPOIL(l1_0, h->l1_table_offset = 0)
SPOIL(l1_end, h->l1_table_offset = UINT64_MAX - 511)
SPOIL(l1_small, h->size = 32769 + 511) /* two tables of 32 KiB are needed */
SPOIL(l1_none, h->l1_size = 0)
SPOIL(size_max, {
    h->size = UINT64_MAX;
    h->l1_size = 4194304;
})
SPOIL(size_int_max, {
    h->size = (UINT64_C(1) << 46) + 512; /* 2^31 tables of 32 KiB, and one more */
    h->l1_size = 4194304;
})
SPOIL(all_at_once, {
    h->refcount_order = 99;
    h->crypt_method = 99;
    h->l1_table_offset = 3;
    h->incompatible_features = UINT64_C(1) << 40;
})
SPOIL(long_header, h->header_length = 512)
SPOIL(short_header, h->header_length = 104)
SPOIL(order_6, h->refcount_order = 6)
SPOIL(zstd, {
    h->compression_type = 1;
    h->incompatible_features = 8;
})
SPOIL(size_odd, h->size = 32768 + 511) /* rounds down to the size mapped by one table */
SPOIL(v2_garbage, {
    h->compression_type = 9; /* in version 2 these bytes are extensions */
    h->refcount_order = 99;
    h->header_length = 3;
})

static const Row rows[] = {
    {"sound-v2", QIMG_RULE_OK, NULL, 2, 9, 0},
    {"sound-v3", QIMG_RULE_OK, NULL, 3, 9, 0},
    {"sound-2MiB", QIMG_RULE_OK, NULL, 3, 21, 0},
    {"sound-long-header", QIMG_RULE_OK, long_header, 3, 9, 0},
    {"sound-header-104", QIMG_RULE_OK, short_header, 3, 9, 0},
    {"sound-refcounts-64", QIMG_RULE_OK, order_6, 3, 9, 0},
    {"sound-zstd", QIMG_RULE_OK, zstd, 3, 9, 0},
    {"sound-odd-size", QIMG_RULE_OK, size_odd, 3, 9, 0},
    {"sound-v2-without-v3-fields", QIMG_RULE_OK, v2_garbage, 2, 9, 0},
    {"unknown-feature-comes-first", QIMG_RULE_OK, all_at_once, 3, 9, 0},
    {"magic", QIMG_RULE_MAGIC, bad_magic, 3, 9, 0x514649fa},
    {"version-0", QIMG_RULE_VERSION, version_0, 3, 9, 0},
    {"version-1", QIMG_RULE_VERSION, version_1, 3, 9, 1},
    {"version-4", QIMG_RULE_VERSION, version_4, 3, 9, 4},
    {"cluster-bits-8", QIMG_RULE_CLUSTER_BITS, bits_8, 3, 9, 8},
    {"cluster-bits-22", QIMG_RULE_CLUSTER_BITS, bits_22, 3, 9, 22},
    {"cluster-bits-0", QIMG_RULE_CLUSTER_BITS, bits_0, 2, 9, 0},
    {"cluster-bits-64", QIMG_RULE_CLUSTER_BITS, bits_64, 3, 9, 64},
    {"cluster-bits-max", QIMG_RULE_CLUSTER_BITS, bits_max, 3, 9, UINT32_MAX},
    {"header-length-103", QIMG_RULE_HEADER_LENGTH, length_103, 3, 9, 103},
    {"header-length-96", QIMG_RULE_HEADER_LENGTH, length_96, 3, 9, 96},
    {"header-length-0", QIMG_RULE_HEADER_LENGTH, length_0, 3, 9, 0},
    {"header-length-108", QIMG_RULE_HEADER_LENGTH, length_108, 3, 9, 108},
    {"header-length-long", QIMG_RULE_HEADER_LENGTH, length_long, 3, 9, 520},
    {"header-length-max", QIMG_RULE_HEADER_LENGTH, length_max, 3, 9, UINT32_MAX - 7},
    {"backing-name-offset", QIMG_RULE_BACKING_NAME_OFFSET, name_far, 3, 9, 513},
    {"backing-name-max", QIMG_RULE_BACKING_NAME_OFFSET, name_max, 2, 9, UINT64_MAX},
    {"compression-type", QIMG_RULE_COMPRESSION_TYPE, type_2, 3, 9, 2},
    {"compression-no-bit", QIMG_RULE_COMPRESSION_BIT, type_without_bit, 3, 9, 1},
    {"compression-no-type", QIMG_RULE_COMPRESSION_BIT, bit_without_type, 3, 9, 0},
    {"compression-no-field", QIMG_RULE_COMPRESSION_BIT, bit_without_field, 3, 9, 0},
    {"subclusters", QIMG_RULE_SUBCLUSTER_SIZE, subclusters_13, 3, 13, 13},
    {"refcount-order", QIMG_RULE_REFCOUNT_ORDER, order_7, 3, 9, 7},
    {"crypt-method", QIMG_RULE_CRYPT_METHOD, crypt_3, 2, 9, 3},
    {"reftable-clusters", QIMG_RULE_REFTABLE_CLUSTERS, no_reftable, 3, 9, 0},
    {"reftable-large", QIMG_RULE_REFTABLE_SIZE, reftable_large, 3, 9, 16385},
    {"reftable-max", QIMG_RULE_REFTABLE_SIZE, reftable_max, 3, 21, UINT32_MAX},
    {"reftable-odd", QIMG_RULE_REFTABLE_OFFSET, reftable_odd, 3, 9, 513},
    {"reftable-0", QIMG_RULE_REFTABLE_OFFSET, reftable_0, 3, 9, 0},
    {"reftable-end", QIMG_RULE_REFTABLE_OFFSET, reftable_end, 3, 9,
     (UINT64_C(1) << 63) - 512},
    {"snapshots-count", QIMG_RULE_SNAPSHOTS_COUNT, snapshots_65537, 3, 9, 65537},
    {"snapshots-odd", QIMG_RULE_SNAPSHOTS_OFFSET, snapshots_odd, 3, 9, 1},
    {"snapshots-0", QIMG_RULE_SNAPSHOTS_OFFSET, snapshots_0, 3, 9, 0},
    {"snapshots-end", QIMG_RULE_SNAPSHOTS_OFFSET, snapshots_end, 3, 9,
     (UINT64_C(1) << 63) - 512},
    {"l1-large", QIMG_RULE_L1_SIZE, l1_large, 3, 9, 4194305},
    {"l1-odd", QIMG_RULE_L1_OFFSET, l1_odd, 3, 9, 1025},
    {"l1-0", QIMG_RULE_L1_OFFSET, l1_0, 3, 9, 0},
    {"l1-end", QIMG_RULE_L1_OFFSET, l1_end, 3, 9, UINT64_MAX - 511},
    {"l1-small", QIMG_RULE_L1_TOO_SMALL, l1_small, 3, 9, 1},
    {"l1-none", QIMG_RULE_L1_TOO_SMALL, l1_none, 3, 9, 0},
    {"size-max", QIMG_RULE_VIRTUAL_SIZE, size_max, 3, 21, UINT64_MAX - 511},
    {"size-int-max", QIMG_RULE_VIRTUAL_SIZE, size_int_max, 3, 9,
     (UINT64_C(1) << 46) + 512},
};

static void
test_rule(gconstpointer user)
{
    const Row *row = user;
    g_autoptr(ImageBuilder) b =
        image_builder_new(row->version, row->cluster_bits, 32768, false);
    Qcow2Header header = {.version = 77};
    g_autofree uint8_t *exact = NULL;
    size_t n_bytes;
    QimgDecode decoded;

    if (row->spoil)
        row->spoil(&b->header);
    image_builder_finish(b);
    /* Exactly the readable bytes, so that a sanitizer sees one byte more. */
    n_bytes = MIN(b->bytes->len, b->cluster_bytes);
    exact = g_memdup2(b->bytes->data, n_bytes);
    decoded = qcow2_header_decode(exact, n_bytes, &header);
    g_assert_cmpint(decoded.rule, ==, row->rule);
    g_assert_cmphex(decoded.value, ==, row->value);
    g_assert_cmpuint(header.version, ==, row->rule ? 77 : row->version);
}

/* Each rule that a header alone can break must have a row. */
static void
test_all_rules(void)
{
    static const QimgRule others[] = {/* of the file's length: test_short */
                                      QIMG_RULE_SHORT_HEADER,
                                      /* of the name: test-open-errors.c */
                                      QIMG_RULE_BACKING_NAME_SIZE,
                                      QIMG_RULE_BACKING_NAME_NUL};

    for (QimgRule rule = 1; rule < QIMG_RULE_EXTENSION_BOUNDS; rule++) {
        bool is_covered = false;

        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
            is_covered |= rows[i].rule == rule;
        for (size_t i = 0; i < G_N_ELEMENTS(others); i++)
            is_covered |= others[i] == rule;
        if (!is_covered)
            g_error("no row for \"%s: %s\"", qimg_rule_field(rule), qimg_rule_text(rule));
    }
    for (QimgRule rule = 0; rule < QIMG_N_RULES; rule++) {
        g_assert_nonnull(qimg_rule_field(rule));
        g_assert_nonnull(qimg_rule_text(rule));
    }
}

/* A header that ends early, at each length. */
static void
test_short(void)
{
    for (uint32_t version = 2; version <= 3; version++) {
        g_autoptr(ImageBuilder) b = image_builder_new(version, 9, 512, false);
        Qcow2Header header;

        image_builder_finish(b);
        for (size_t n_bytes = 0; n_bytes < 200; n_bytes++) {
            g_autofree uint8_t *exact = g_memdup2(b->bytes->data, n_bytes);
            QimgDecode decoded = qcow2_header_decode(exact, n_bytes, &header);
            bool is_whole = n_bytes >= b->header.header_length;

            g_assert_cmpint(decoded.rule, ==,
                            is_whole ? QIMG_RULE_OK : QIMG_RULE_SHORT_HEADER);
            g_assert_cmpuint(decoded.value, ==, is_whole ? 0 : n_bytes);
            g_assert_cmpint(qcow2_header_probe(exact, n_bytes), ==, n_bytes >= 4);
        }
    }
}

/* The example of spec section 2. */
static void
test_fields(void)
{
    static const uint8_t bytes[112] = {
        'Q', 'F', 'I', 0xfb, 0,  0, 0, 3, 0,   0, 0, 0, 0, 0, 1, 0x20, 0, 0, 0,
        9,   0,   0,   0,    16, 0, 0, 0, 0,   4, 0, 0, 0, 0, 0, 0,    2, 0, 0,
        0,   1,   0,   0,    0,  0, 0, 3, 0,   0, 0, 0, 0, 0, 0, 1,    0, 0, 0,
        0,   0,   1,   0,    0,  0, 5, 0, 0,   0, 0, 0, 6, 0, 0, 0,    0, 0, 0,
        0,   0,   0,   0x0b, 0,  0, 0, 0, 0,   0, 0, 1, 0, 0, 0, 0,    0, 0, 0,
        2,   0,   0,   0,    4,  0, 0, 0, 112, 1, 0, 0, 0, 0, 0, 0,    0};
    Qcow2Header h;

    g_assert_cmpint(qcow2_header_decode(bytes, sizeof bytes, &h).rule, ==, QIMG_RULE_OK);
    g_assert_cmpuint(h.version, ==, 3);
    g_assert_cmpuint(h.backing_name_offset, ==, 0x120);
    g_assert_cmpuint(h.backing_name_bytes, ==, 9);
    g_assert_cmpuint(h.cluster_bits, ==, 16);
    g_assert_cmpuint(h.size_bytes, ==, 64 * QIMG_MIB);
    g_assert_cmpuint(h.crypt_method, ==, QCOW2_CRYPT_LUKS);
    g_assert_cmpuint(h.n_l1_entries, ==, 1);
    g_assert_cmphex(h.l1_table_offset, ==, 0x30000);
    g_assert_cmphex(h.refcount_table_offset, ==, 0x10000);
    g_assert_cmpuint(h.n_refcount_table_clusters, ==, 1);
    g_assert_cmpuint(h.n_snapshots, ==, 5);
    g_assert_cmphex(h.snapshots_offset, ==, 0x60000);
    g_assert_cmphex(h.incompatible_features, ==, 0xb);
    g_assert_cmphex(h.compatible_features, ==, 1);
    g_assert_cmphex(h.autoclear_features, ==, 2);
    g_assert_cmpuint(h.refcount_order, ==, 4);
    g_assert_cmpuint(h.header_bytes, ==, 112);
    g_assert_cmpuint(h.compression_type, ==, QCOW2_COMPRESSION_ZSTD);
    g_assert_cmpuint(qcow2_header_extensions_end(&h), ==, 0x120);
    h.backing_name_offset = 0;
    g_assert_cmpuint(qcow2_header_extensions_end(&h), ==, 65536);
}

/* Walks over extensions as a list "type:length type:length …", or "broken VALUE". */
static void
test_extensions(void)
{
    static const struct {
        const char *name;
        uint8_t bytes[40];
        size_t end_position;
        const char *walk;
    } cases[] = {
        {"nothing", {0}, 0, ""},
        {"end mark", {0}, 8, ""},
        {"end mark with a length", {0, 0, 0, 0, 0, 0, 0, 8}, 16, ""},
        {"head cut", {1}, 7, "broken 0"},
        {"one", {1, 2, 3, 4, 0, 0, 0, 3, 'a', 'b', 'c'}, 16, "1020304:3 "},
        {"one without padding",
         {1, 2, 3, 4, 0, 0, 0, 3, 'a', 'b', 'c'},
         11,
         "1020304:3 "},
        {"empty", {0, 0, 0, 9, 0, 0, 0, 0}, 8, "9:0 "},
        {"two",
         {0, 0, 0, 9, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8},
         24,
         "9:1 8:0 "},
        {"too long", {0, 0, 0, 9, 0, 0, 0, 9}, 16, "broken 9"},
        {"far too long", {0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff}, 40, "broken 4294967295"},
        {"second head cut", {0, 0, 0, 9, 0, 0, 0, 1, 7}, 20, "9:1 broken 16"},
        {"end with a wild length",
         {0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
         40,
         "broken 4294967295"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GString) walk = g_string_new(NULL);
        size_t end = cases[i].end_position;
        g_autofree uint8_t *exact = g_memdup2(cases[i].bytes, end);
        size_t position = 0;
        QimgDecode decoded;
        Qcow2Extension e;

        do {
            decoded = qcow2_extension_decode(exact, end, &position, &e);
            if (decoded.rule)
                g_string_append_printf(walk, "broken %" G_GUINT64_FORMAT,
                                       (guint64)decoded.value);
            else if (e.type != QCOW2_EXT_END)
                g_string_append_printf(walk, "%x:%u ", e.type, e.data_bytes);
        } while (!decoded.rule && e.type != QCOW2_EXT_END);
        if (decoded.rule)
            g_assert_cmpint(decoded.rule, ==, QIMG_RULE_EXTENSION_BOUNDS);
        if (strcmp(walk->str, cases[i].walk) != 0)
            g_error("%s: \"%s\", not \"%s\"", cases[i].name, walk->str, cases[i].walk);
    }
}

static void
test_feature_names(void)
{
    uint8_t entries[3 * 48 + 47] = {0};
    Qcow2Extension table = {.type = QCOW2_EXT_FEATURE_NAMES, .data = entries};
    char name[QCOW2_FEATURE_NAME_BYTES + 1];

    entries[0] = 0;
    entries[1] = 5;
    strcpy((char *)entries + 2, "five");
    entries[48] = 1;
    entries[49] = 6;
    memset(entries + 50, 'x', 46); /* all of the field, without NUL */
    entries[96] = 0;
    entries[97] = 5;
    strcpy((char *)entries + 98, "five again");
    entries[145] = 63; /* of an entry that is cut */
    table.data_bytes = sizeof entries;
    g_assert_true(qcow2_feature_name_find(&table, 0, 5, name));
    g_assert_cmpstr(name, ==, "five");
    g_assert_true(qcow2_feature_name_find(&table, 1, 6, name));
    g_assert_cmpstr(name, ==, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    g_assert_false(qcow2_feature_name_find(&table, 0, 6, name));
    g_assert_false(qcow2_feature_name_find(&table, 2, 5, name));
    g_assert_false(qcow2_feature_name_find(&table, 0, 63, name));
    table.data_bytes = 0;
    g_assert_false(qcow2_feature_name_find(&table, 0, 5, name));
}

static void
check_headers_equal(const Qcow2Header *a, const Qcow2Header *b)
{
#define SAME(field) g_assert_cmphex(a->field, ==, b->field)
    SAME(version);
    SAME(backing_name_offset);
    SAME(backing_name_bytes);
    SAME(cluster_bits);
    SAME(size_bytes);
    SAME(crypt_method);
    SAME(n_l1_entries);
    SAME(l1_table_offset);
    SAME(refcount_table_offset);
    SAME(n_refcount_table_clusters);
    SAME(n_snapshots);
    SAME(snapshots_offset);
    SAME(incompatible_features);
    SAME(compatible_features);
    SAME(autoclear_features);
    SAME(refcount_order);
    SAME(header_bytes);
    SAME(compression_type);
#undef SAME
}

/* decode(encode(x)) = x for each accepted header; bytes behind the header's length, and
 * behind the known fields, stay. */
static void
test_encode(gconstpointer user)
{
    const Row *row = user;
    g_autoptr(ImageBuilder) b =
        image_builder_new(row->version, row->cluster_bits, 32768, false);
    uint8_t bytes[600], filler[600];
    Qcow2Header header, again;

    if (row->spoil)
        row->spoil(&b->header);
    image_builder_finish(b);
    g_assert_cmpint(qcow2_header_decode(b->bytes->data, b->bytes->len, &header).rule, ==,
                    QIMG_RULE_OK);
    memset(filler, 0xa5, sizeof filler);
    memcpy(bytes, filler, sizeof bytes);
    g_assert_false(qcow2_header_encode(&header, bytes, header.header_bytes - 1));
    g_assert_cmpmem(bytes, sizeof bytes, filler, sizeof filler);
    g_assert_true(qcow2_header_encode(&header, bytes, header.header_bytes));
    for (size_t i = MIN(header.header_bytes, 112); i < sizeof bytes; i++)
        g_assert_cmphex(bytes[i], ==, 0xa5);
    g_assert_cmpint(qcow2_header_decode(bytes, sizeof bytes, &again).rule, ==,
                    QIMG_RULE_OK);
    check_headers_equal(&header, &again);
    /* For an odd size on disk only the whole sectors are known. */
    if (b->header.size % 512 == 0)
        g_assert_cmpmem(bytes, MIN(header.header_bytes, 112), b->bytes->data,
                        MIN(header.header_bytes, 112));
}

/* Writes successive extensions; known and unknown ones are decoded unchanged. */
static void
test_extension_encode(void)
{
    static const struct {
        uint32_t type;
        const char *data;
        size_t position_after;
    } cases[] = {
        {QCOW2_EXT_BACKING_FORMAT, "qcow2", 16},
        {0x12345678, "12345678", 32},
        {0xffffffff, "", 40},
        {QCOW2_EXT_DATA_FILE, "123456789", 64},
        {QCOW2_EXT_END, "", 72},
    };
    uint8_t bytes[80];
    size_t position = 0;
    Qcow2Extension e;

    memset(bytes, 0xa5, sizeof bytes);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        size_t before = position;

        e = (Qcow2Extension){.type = cases[i].type,
                             .data = (const uint8_t *)cases[i].data,
                             .data_bytes = (uint32_t)strlen(cases[i].data)};
        g_assert_false(
            qcow2_extension_encode(&e, bytes, cases[i].position_after - 1, &position));
        g_assert_cmpuint(position, ==, before);
        g_assert_cmphex(bytes[position], ==, 0xa5);
        g_assert_true(
            qcow2_extension_encode(&e, bytes, cases[i].position_after, &position));
        g_assert_cmpuint(position, ==, cases[i].position_after);
    }
    for (size_t i = position; i < sizeof bytes; i++)
        g_assert_cmphex(bytes[i], ==, 0xa5);
    g_assert_cmpmem(bytes + 8, 8, "qcow2\0\0\0", 8); /* padded with zeros */
    position = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_assert_cmpint(qcow2_extension_decode(bytes, sizeof bytes, &position, &e).rule,
                        ==, QIMG_RULE_OK);
        g_assert_cmphex(e.type, ==, cases[i].type);
        g_assert_cmpmem(e.data, e.data_bytes, cases[i].data, strlen(cases[i].data));
        g_assert_cmpuint(position, ==, cases[i].position_after);
    }
    position = 81; /* behind the end */
    g_assert_false(qcow2_extension_encode(&e, bytes, sizeof bytes, &position));
    e.data_bytes = UINT32_MAX;
    position = 0;
    g_assert_false(qcow2_extension_encode(&e, bytes, sizeof bytes, &position));
}

static void
test_feature_names_encode(void)
{
    static const struct {
        uint8_t feature_type;
        uint64_t features;
        const char *name;
    } cases[] = {
        {0, QCOW2_INCOMPAT_DIRTY, "dirty bit"},
        {0, QCOW2_INCOMPAT_CORRUPT, "corrupt bit"},
        {0, QCOW2_INCOMPAT_DATA_FILE, "external data file"},
        {0, QCOW2_INCOMPAT_COMPRESSION, "compression type"},
        {0, QCOW2_INCOMPAT_EXTENDED_L2, "extended L2 entries"},
        {1, QCOW2_COMPAT_LAZY_REFCOUNTS, "lazy refcounts"},
        {2, QCOW2_AUTOCLEAR_BITMAPS, "bitmaps"},
        {2, QCOW2_AUTOCLEAR_DATA_FILE_RAW, "raw external data"},
    };
    uint8_t entries[QCOW2_FEATURE_NAME_TABLE_BYTES];
    Qcow2Extension table = {
        .type = QCOW2_EXT_FEATURE_NAMES, .data = entries, .data_bytes = sizeof entries};
    char name[QCOW2_FEATURE_NAME_BYTES + 1];

    g_assert_cmpuint(G_N_ELEMENTS(cases), ==, QCOW2_N_FEATURE_NAMES);
    qcow2_feature_names_encode(entries);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint8_t bit = (uint8_t)__builtin_ctzll(cases[i].features);

        g_assert_true(qcow2_feature_name_find(&table, cases[i].feature_type, bit, name));
        g_assert_cmpstr(name, ==, cases[i].name);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/header/rule/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_rule);
        if (rows[i].rule == QIMG_RULE_OK) {
            g_autofree char *encode_path =
                g_strconcat("/header/encode/", rows[i].name, NULL);

            g_test_add_data_func(encode_path, &rows[i], test_encode);
        }
    }
    g_test_add_func("/header/all-rules", test_all_rules);
    g_test_add_func("/header/short", test_short);
    g_test_add_func("/header/fields", test_fields);
    g_test_add_func("/header/extensions", test_extensions);
    g_test_add_func("/header/feature-names", test_feature_names);
    g_test_add_func("/header/extension-encode", test_extension_encode);
    g_test_add_func("/header/feature-names-encode", test_feature_names_encode);
    return g_test_run();
}
