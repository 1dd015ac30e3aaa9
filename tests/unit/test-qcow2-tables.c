/* SPDX-License-Identifier: GPL-2.0-or-later */
/* codec/qcow2-tables.h and codec/qcow2-geometry.c: the worked examples of the
 * specification, and each kind of damage. */
#include "codec/qcow2-header.h"
#include "codec/qcow2-tables.h"

#include "test-util.h"

static Qcow2Geometry
geometry(uint32_t version, uint32_t cluster_bits, uint64_t incompatible)
{
    Qcow2Header header = {.version = version,
                          .cluster_bits = cluster_bits,
                          .incompatible_features = incompatible};

    return qcow2_header_geometry(&header);
}

static void
test_geometry(void)
{
    /* The table of spec section 3. */
    static const struct {
        uint32_t cluster_bits;
        bool extended;
        uint64_t n_l2_entries;
        uint64_t table_guest_bytes;
        uint32_t compressed_shift;
        uint32_t subcluster_bits;
    } rows[] = {
        {16, false, 8192, 512 * QIMG_MIB, 54, 16},
        {9, false, 64, 32 * QIMG_KIB, 61, 9},
        {21, false, 262144, UINT64_C(512) << 30, 49, 21},
        {16, true, 4096, 256 * QIMG_MIB, 54, 11},
        {14, true, 1024, 16 * QIMG_MIB, 56, 9},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        Qcow2Geometry g = geometry(3, rows[i].cluster_bits,
                                   rows[i].extended ? QCOW2_INCOMPAT_EXTENDED_L2 : 0);

        g_assert_cmpuint(g.cluster_bytes, ==, UINT64_C(1) << rows[i].cluster_bits);
        g_assert_cmpuint(UINT64_C(1) << g.l2_bits, ==, rows[i].n_l2_entries);
        g_assert_cmpuint(UINT64_C(1) << g.l1_shift, ==, rows[i].table_guest_bytes);
        g_assert_cmpuint(g.compressed_shift, ==, rows[i].compressed_shift);
        g_assert_cmpuint(g.subcluster_bits, ==, rows[i].subcluster_bits);
        g_assert_cmpuint(g.l2_entry_words, ==, rows[i].extended ? 2 : 1);
        g_assert_cmpuint(qcow2_geometry_l1_entries_for(&g, 0), ==, 0);
        g_assert_cmpuint(qcow2_geometry_l1_entries_for(&g, 1), ==, 1);
        g_assert_cmpuint(qcow2_geometry_l1_entries_for(&g, rows[i].table_guest_bytes), ==,
                         1);
        g_assert_cmpuint(qcow2_geometry_l1_entries_for(&g, rows[i].table_guest_bytes + 1),
                         ==, 2);
    }
}

static void
test_check_table(void)
{
    static const struct {
        uint64_t host_offset, n_entries;
        QimgRule rule;
    } rows[] = {
        {0, 0, QIMG_RULE_OK},
        {512, 128, QIMG_RULE_OK},
        {512, 129, QIMG_RULE_L1_SIZE},
        {512, UINT64_MAX, QIMG_RULE_L1_SIZE},
        {513, 1, QIMG_RULE_L1_OFFSET},
        {(UINT64_C(1) << 63) - 512, 63, QIMG_RULE_OK},
        {(UINT64_C(1) << 63) - 512, 64, QIMG_RULE_L1_OFFSET},
        {UINT64_C(1) << 63, 0, QIMG_RULE_L1_OFFSET},
        {UINT64_MAX - 511, 0, QIMG_RULE_L1_OFFSET},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        g_assert_cmpint(qcow2_check_table(rows[i].host_offset, rows[i].n_entries, 8, 512,
                                          1024, QIMG_RULE_L1_SIZE, QIMG_RULE_L1_OFFSET),
                        ==, rows[i].rule);
}

typedef struct {
    const char *name;
    uint32_t version;
    uint32_t cluster_bits;
    bool data_file;
    uint64_t word;
    QimgL2Kind kind;
    QimgRule rule;
    uint64_t host_offset;
    uint32_t stream_bytes;
} StandardRow;

#define H(x) UINT64_C(0x##x)

/* @guest_offset is 0x50000 for all. */
static const StandardRow standard_rows[] = {
    {"write", 3, 16, false, H(8000000000050000), QIMG_L2_DATA, 0, 0x50000, 0},
    {"shared", 3, 16, false, H(0000000000050000), QIMG_L2_DATA, 0, 0x50000, 0},
    {"zero", 3, 16, false, 1, QIMG_L2_ZEROS, 0, 0, 0},
    {"zero allocated", 3, 16, false, H(8000000000070001), QIMG_L2_ZEROS, 0, 0, 0},
    {"zero in version 2", 2, 16, false, 1, QIMG_L2_DAMAGED, QIMG_RULE_ZERO_BIT_V2, 0, 0},
    {"nothing", 3, 16, false, 0, QIMG_L2_UNALLOCATED, 0, 0, 0},
    {"copied without offset", 3, 16, false, H(8000000000000000), QIMG_L2_UNALLOCATED, 0,
     0, 0},
    {"reserved bits", 3, 16, false, H(bf000000000501fe), QIMG_L2_DATA, 0, 0x50000, 0},
    {"only reserved bits", 3, 16, false, H(3f000000000001fe), QIMG_L2_UNALLOCATED, 0, 0,
     0},
    {"highest offset", 3, 9, false, H(80fffffffffffe00), QIMG_L2_DATA, 0,
     H(fffffffffffe00), 0},
    {"unaligned", 3, 16, false, H(8000000000050200), QIMG_L2_DAMAGED,
     QIMG_RULE_DATA_UNALIGNED, 0, 0},
    {"unaligned zero", 3, 16, false, H(8000000000050201), QIMG_L2_ZEROS, 0, 0, 0},
    {"compressed", 3, 16, false, H(4000000000080000), QIMG_L2_STREAM, 0, 0x80000, 512},
    {"compressed packed", 3, 16, false, H(400000000008004f), QIMG_L2_STREAM, 0, 0x8004f,
     512 - 0x4f},
    {"compressed worked", 3, 16, false, H(4a00000000054f1f), QIMG_L2_STREAM, 0, 0x54f1f,
     20705},
    {"compressed 512", 2, 9, false, H(4000000000005ae8), QIMG_L2_STREAM, 0, 0x5ae8,
     512 - (0x5ae8 & 511)},
    {"compressed 2M", 3, 21, false, H(4e84000000ab652d), QIMG_L2_STREAM, 0, 0xab652d,
     1859 * 512 - (0xab652d & 511)},
    {"compressed longest", 3, 16, false, H(7fc0000000080000), QIMG_L2_STREAM, 0, 0x80000,
     131072},
    {"compressed copied", 3, 16, false, H(c000000000080000), QIMG_L2_STREAM, 0, 0x80000,
     512},
    {"compressed past 2^56", 3, 9, false, H(4100000000000000), QIMG_L2_DAMAGED,
     QIMG_RULE_COMPRESSED_OFFSET, 0, 0},
    {"compressed last byte", 3, 9, false, H(40ffffffffffffff), QIMG_L2_STREAM, 0,
     H(ffffffffffffff), 1},
    {"data file", 3, 16, true, H(8000000000050000), QIMG_L2_DATA, 0, 0x50000, 0},
    {"data file elsewhere", 3, 16, true, H(8000000000060000), QIMG_L2_DAMAGED,
     QIMG_RULE_DATA_FILE_OFFSET, 0, 0},
    {"data file at 0 for another", 3, 16, true, H(8000000000000000), QIMG_L2_DAMAGED,
     QIMG_RULE_DATA_FILE_OFFSET, 0, 0},
    {"data file not copied", 3, 16, true, 0, QIMG_L2_UNALLOCATED, 0, 0, 0},
    {"data file compressed", 3, 16, true, H(4000000000080000), QIMG_L2_DAMAGED,
     QIMG_RULE_COMPRESSED_DATA_FILE, 0, 0},
};

static void
test_standard(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(standard_rows); i++) {
        const StandardRow *row = &standard_rows[i];
        Qcow2Geometry g = geometry(row->version, row->cluster_bits,
                                   row->data_file ? QCOW2_INCOMPAT_DATA_FILE : 0);
        QimgL2Entry e = qcow2_l2_decode(&g, row->word, 0x50000);

        g_test_message("%s", row->name);
        g_assert_cmpint(e.kind, ==, row->kind);
        g_assert_cmpint(e.rule, ==, row->rule);
        g_assert_cmpuint(e.n_subclusters, ==, 1);
        if (e.kind == QIMG_L2_DATA || e.kind == QIMG_L2_STREAM)
            g_assert_cmphex(e.host_offset, ==, row->host_offset);
        if (e.kind == QIMG_L2_STREAM)
            g_assert_cmpuint(e.stream_bytes, ==, row->stream_bytes);
    }
}

/* Guest cluster 0 of a data file: offset 0 with COPIED is data. */
static void
test_data_file_start(void)
{
    Qcow2Geometry g = geometry(3, 16, QCOW2_INCOMPAT_DATA_FILE);
    QimgL2Entry e = qcow2_l2_decode(&g, QCOW2_ENTRY_COPIED, 0);

    g_assert_cmpint(e.kind, ==, QIMG_L2_DATA);
    g_assert_cmphex(e.host_offset, ==, 0);
    g = geometry(3, 16, QCOW2_INCOMPAT_DATA_FILE | QCOW2_INCOMPAT_EXTENDED_L2);
    e = qcow2_l2_decode_extended(&g, QCOW2_ENTRY_COPIED, 1, 0, 0);
    g_assert_cmpint(e.kind, ==, QIMG_L2_DATA);
    g_assert_cmpuint(e.n_subclusters, ==, 1);
}

typedef struct {
    const char *name;
    uint64_t word;
    uint64_t bitmap;
    const char *subclusters; /* the kind of each: . u(nallocated) z(ero) d(ata) … */
    QimgRule rule;
} ExtendedRow;

/* Spec section 6, 64 KiB clusters. */
static const ExtendedRow extended_rows[] = {
    {"2 KiB at +2 KiB", H(8000000000050000), 2, ".d..............................", 0},
    {"zeroed subcluster 0", 0, H(0000000100000000), "z...............................",
     0},
    {"write, then zeroes", H(8000000000080000), H(00000006fffffff9),
     "dzzddddddddddddddddddddddddddddd", 0},
    {"discarded", 0, H(ffffffff00000000), "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", 0},
    {"preallocated", H(8000000000050000), 0, "................................", 0},
    {"all data", H(8000000000050000), H(ffffffff), "dddddddddddddddddddddddddddddddd", 0},
    {"ends differ", H(8000000000050000), H(8000000000000001),
     "d..............................z", 0},
    {"last only", H(8000000000050000), H(80000000), "...............................d",
     0},
    {"compressed", H(40000000000a0000), 0, "ssssssssssssssssssssssssssssssss", 0},
    {"compressed with bitmap", H(40000000000a0000), H(ffffffffffffffff),
     "ssssssssssssssssssssssssssssssss", 0},
    {"both bits", H(8000000000050000), H(0000000200000002),
     "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!", QIMG_RULE_SUBCLUSTER_BITMAP},
    {"data without offset", 0, H(80000000), "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
     QIMG_RULE_SUBCLUSTER_BITMAP},
    {"unaligned", H(8000000000050200), 1, "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
     QIMG_RULE_DATA_UNALIGNED},
    {"bit 0 is ignored", H(8000000000050001), 1, "d...............................", 0},
};

static void
test_extended(void)
{
    static const char letters[] = {[QIMG_L2_UNALLOCATED] = '.',
                                   [QIMG_L2_ZEROS] = 'z',
                                   [QIMG_L2_DATA] = 'd',
                                   [QIMG_L2_STREAM] = 's',
                                   [QIMG_L2_DAMAGED] = '!'};
    Qcow2Geometry g = geometry(3, 16, QCOW2_INCOMPAT_EXTENDED_L2);

    for (size_t i = 0; i < G_N_ELEMENTS(extended_rows); i++) {
        const ExtendedRow *row = &extended_rows[i];

        for (uint32_t s = 0; s < QCOW2_N_SUBCLUSTERS; s++) {
            QimgL2Entry e =
                qcow2_l2_decode_extended(&g, row->word, row->bitmap, s, 0x50000);
            uint32_t n = 1;

            while (s + n < QCOW2_N_SUBCLUSTERS &&
                   row->subclusters[s + n] == row->subclusters[s])
                n++;
            g_test_message("%s, subcluster %u", row->name, s);
            g_assert_cmpint(letters[e.kind], ==, row->subclusters[s]);
            g_assert_cmpint(e.rule, ==, row->rule);
            g_assert_cmpuint(e.n_subclusters, ==, n);
            if (e.kind == QIMG_L2_DATA) /* of the cluster, for all subclusters */
                g_assert_cmphex(e.host_offset, ==, row->word & QCOW2_OFFSET_MASK);
        }
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/geometry/spec", test_geometry);
    g_test_add_func("/geometry/check-table", test_check_table);
    g_test_add_func("/tables/standard", test_standard);
    g_test_add_func("/tables/data-file-start", test_data_file_start);
    g_test_add_func("/tables/extended", test_extended);
    return g_test_run();
}
