/* SPDX-License-Identifier: GPL-2.0-or-later */
/* format/qcow2/count/count.c: the counts, and the reported faults. */
#include "format/qcow2/count/count.h"
#include "format/qcow2/count/flags.h"
#include "format/qcow2/count/refcount-bulk.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/refcount.h"

#include <errno.h>

#include "codec/qcow2-tables.h"
#include "event-storage.h"
#include "image-builder.h"
#include "test-util.h"

#define CLUSTER        512u
#define COPIED         (UINT64_C(1) << 63)
#define COMPRESSED     (UINT64_C(1) << 62)
#define ONE_MORE       (UINT64_C(1) << 61) /* sector, of a compressed entry */
#define EXT_BITMAPS    0x23852875u
#define EXT_ENCRYPTION 0x0537be77u

static QimgErrno
count(TestLayer *layer, Qcow2Counts *out)
{
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(layer->q));
    g_assert_cmpint(qcow2_refcount_load_table(layer->q), ==, 0);
    return qcow2_count_references(layer->q, NULL, out);
}

/* Counts of a small image, one by one. */
static void
test_counts(void)
{
    /* header, table, L1, streams, data, L2, the snapshot's L1, snapshots, none */
    static const uint64_t wanted[] = {1, 1, 1, 2, 4, 0, 4, 2, 1, 1, 0};
    static const Qcow2Use uses[] = {
        QCOW2_USE_ALONE, QCOW2_USE_ALONE, QCOW2_USE_ALONE, QCOW2_USE_DATA,
        QCOW2_USE_DATA,  QCOW2_USE_NONE,  QCOW2_USE_DATA,  QCOW2_USE_L2,
        QCOW2_USE_ALONE, QCOW2_USE_ALONE, QCOW2_USE_NONE,
    };
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 64 * CLUSTER, false);
    uint64_t l1 = b->header.l1_table_offset;
    uint64_t streams = image_builder_allocate(b, 3); /* clusters 3 to 5 */
    uint64_t data = image_builder_allocate(b, 1);
    Qcow2Counts counts;
    TestLayer layer;

    image_builder_set_entry(b, l1, 0, data | COPIED, 0);
    image_builder_set_entry(b, l1, 1, data, 0); /* the same twice */
    /* From 500 bytes into cluster 3 on, into cluster 4; the other only in cluster 4. */
    image_builder_set_entry(b, l1, 2, COMPRESSED | ONE_MORE | (streams + 500), 0);
    image_builder_set_entry(b, l1, 3, COMPRESSED | (streams + CLUSTER + 7), 0);
    image_builder_add_snapshot(b);
    image_builder_finish(b);

    layer = test_layer_open(b->bytes, true);
    g_assert_cmpint(count(&layer, &counts), ==, 0);
    g_assert_cmpuint(counts.n_problems, ==, 0);
    g_assert_cmpuint(counts.n_clusters, ==, 10);
    for (unsigned c = 0; c < G_N_ELEMENTS(wanted); c++) {
        g_assert_cmpuint(qcow2_counts_get(&counts, c), ==, wanted[c]);
        g_assert_cmpint(qcow2_counts_get_use(&counts, c), ==, uses[c]);
    }
    g_assert_cmpuint(layer.storage->events->len, ==, 0); /* it never writes */
    qcow2_counts_clear(&counts);
    test_layer_close(&layer);
}

/* A file that claims more clusters than can be counted. */
static void
test_too_large(void)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 64 * CLUSTER, false);
    Qcow2Counts counts;
    TestLayer layer;

    image_builder_finish(b);
    layer = test_layer_open(b->bytes, true);
    layer.storage->claimed_size = QCOW2_MAX_COUNT_BYTES / 4 * CLUSTER;
    g_assert_cmpint(count(&layer, &counts), ==, -EFBIG);
    qcow2_counts_clear(&counts);
    test_layer_close(&layer);
}

/* ---- damage ---- */

typedef struct {
    ImageBuilder *b;
    uint64_t l1;
    uint64_t area; /* of bitmaps (directory, table, data) or LUKS: three clusters */
    uint8_t *data; /* of the extension */
} Image;

static void
add_extension(Image *image, uint32_t type, const uint64_t *words, unsigned n_words)
{
    image_builder_add_extension(image->b, type, words, 8 * n_words);
    image->data = image->b->extensions->data + image->b->extensions->len - 8 * n_words;
    for (unsigned i = 0; i < 8 * n_words; i++)
        image->data[i] = (uint8_t)(words[i / 8] >> (56 - 8 * (i % 8)));
}

/* One bitmap with a table of two entries, one with data. */
static void
add_bitmap(Image *image)
{
    ImageBuilder *b = image->b;
    uint64_t directory = image->area;
    const uint64_t words[] = {UINT64_C(1) << 32, 32, directory};

    image_builder_put_be64(b, directory, directory + CLUSTER);
    image_builder_put_be32(b, directory + 8, 2);
    image_builder_put_be32(b, directory + 12, 1); /* in use: of any size */
    image_builder_put_be32(b, directory + 16, 1u << 24 | 16u << 16 | 1u);
    image_builder_write(b, directory + 24, "n", 1);
    image_builder_put_be64(b, directory + CLUSTER, directory + 2 * CLUSTER);
    image_builder_put_be64(b, directory + CLUSTER + 8, 1); /* all ones */
    add_extension(image, EXT_BITMAPS, words, 3);
    b->header.autoclear_features |= 1;
}

static void
add_luks(Image *image, uint64_t host_offset)
{
    const uint64_t words[] = {host_offset, 2 * CLUSTER + 1};

    add_extension(image, EXT_ENCRYPTION, words, 2);
    image->b->header.crypt_method = 2;
}

static void
sound(Image *image)
{
    add_bitmap(image);
}

static void
stale_bitmaps(Image *image)
{
    add_bitmap(image);
    image->b->header.autoclear_features = 0;
}

static void
more_bitmaps(Image *image)
{
    add_bitmap(image);
    image->data[3] = 2;
}

static void
longer_directory(Image *image)
{
    add_bitmap(image);
    image->data[15] = 40;
}

static void
far_directory(Image *image)
{
    add_bitmap(image);
    image->data[20] = 1;
}

static void
short_extension(Image *image)
{
    const uint64_t words[] = {UINT64_C(1) << 32, 32};

    add_extension(image, EXT_BITMAPS, words, 2);
    image->b->header.autoclear_features |= 1;
}

static void
unaligned_bitmap_table(Image *image)
{
    add_bitmap(image);
    image_builder_put_be64(image->b, image->area, image->area + CLUSTER + 8);
}

static void
long_bitmap_table(Image *image)
{
    add_bitmap(image);
    image_builder_put_be32(image->b, image->area + 8, 0x8000000);
}

static void
put_in_entry(Image *image, unsigned at, uint8_t value)
{
    add_bitmap(image);
    image_builder_write(image->b, image->area + at, &value, 1);
}

static void
bitmap_type(Image *image)
{
    put_in_entry(image, 16, 2);
}

static void
bitmap_granularity(Image *image)
{
    put_in_entry(image, 17, 8);
}

static void
bitmap_flags(Image *image)
{
    put_in_entry(image, 15, 5);
}

static void
bitmap_extra_data(Image *image) /* one byte of it, and no name */
{
    put_in_entry(image, 23, 1);
    image_builder_put_be32(image->b, image->area + 16, 1u << 24 | 16u << 16);
}

static void
bitmap_name_empty(Image *image)
{
    put_in_entry(image, 19, 0);
    image->data[15] = 24;
}

static void
bitmap_name_nul(Image *image)
{
    put_in_entry(image, 24, 0);
}

static void
bitmap_table_size(Image *image) /* two entries, and one is enough */
{
    put_in_entry(image, 15, 2);
}

static void
bitmap_entry(Image *image)
{
    add_bitmap(image);
    image_builder_put_be64(image->b, image->area + CLUSTER, image->area + 1025);
}

static void
bitmap_on_l1(Image *image)
{
    add_bitmap(image);
    image_builder_put_be64(image->b, image->area + CLUSTER + 8, image->l1);
}

static void
l1_reserved(Image *image)
{
    image_builder_put_be64(image->b, image->l1,
                           image_builder_get_be64(image->b, image->l1) | 4);
}

static void
l2_reserved(Image *image)
{
    image_builder_set_entry(image->b, image->l1, 1, 4, 0);
}

static void
snapshot_l1(Image *image)
{
    image_builder_put_be64(image->b, image->b->header.snapshots_offset, image->l1 + 8);
}

static void
compressed_far(Image *image) /* its last sector lies behind the file */
{
    image_builder_set_entry(image->b, image->l1, 1,
                            COMPRESSED | ONE_MORE | (image->b->bytes->len - 512), 0);
}

static void
luks(Image *image)
{
    add_luks(image, image->area);
}

static void
unaligned_luks(Image *image)
{
    add_luks(image, image->area + 8);
}

static void
far_luks(Image *image)
{
    add_luks(image, image->area + CLUSTER);
}

static void
test_problems(void)
{
    static const struct {
        void (*damage)(Image *);
        QimgRule rule;
        unsigned n_in_area; /* references to each cluster, for sound ones */
    } rows[] = {
        {sound, QIMG_RULE_OK, 1},
        {stale_bitmaps, QIMG_RULE_OK, 0},
        {more_bitmaps, QIMG_RULE_BITMAP_DIRECTORY},
        {longer_directory, QIMG_RULE_BITMAP_DIRECTORY},
        {far_directory, QIMG_RULE_TABLE_BEYOND_EOF},
        {short_extension, QIMG_RULE_BITMAP_DIRECTORY},
        {unaligned_bitmap_table, QIMG_RULE_BITMAP_TABLE_PLACE},
        {long_bitmap_table, QIMG_RULE_BITMAP_TABLE_PLACE},
        {bitmap_type, QIMG_RULE_BITMAP_TYPE},
        {bitmap_granularity, QIMG_RULE_BITMAP_GRANULARITY},
        {bitmap_flags, QIMG_RULE_BITMAP_FLAGS},
        {bitmap_extra_data, QIMG_RULE_BITMAP_EXTRA_DATA},
        {bitmap_name_empty, QIMG_RULE_BITMAP_NAME_SIZE},
        {bitmap_name_nul, QIMG_RULE_BITMAP_NAME_NUL},
        {bitmap_table_size, QIMG_RULE_BITMAP_TABLE_SIZE},
        {bitmap_entry, QIMG_RULE_BITMAP_TABLE},
        {bitmap_on_l1, QIMG_RULE_METADATA_OVERLAP},
        {l1_reserved, QIMG_RULE_L1_RESERVED},
        {l2_reserved, QIMG_RULE_L2_RESERVED},
        {snapshot_l1, QIMG_RULE_SNAPSHOT_L1_OFFSET},
        {compressed_far, QIMG_RULE_DATA_BEYOND_EOF},
        {luks, QIMG_RULE_OK, 1},
        {unaligned_luks, QIMG_RULE_ENCRYPTION_HEADER},
        {far_luks, QIMG_RULE_TABLE_BEYOND_EOF},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 64 * CLUSTER, false);
        Image image = {.b = b, .l1 = b->header.l1_table_offset};
        uint8_t content[CLUSTER] = {1};
        Qcow2Counts counts;
        TestLayer layer;

        image_builder_add_data(b, 0, content);
        if (rows[i].damage == snapshot_l1)
            image_builder_add_snapshot(b);
        image.area = image_builder_allocate(b, 3);
        rows[i].damage(&image);
        image_builder_finish(b);

        g_test_message("row %zu", i);
        layer = test_layer_open(b->bytes, b->header.crypt_method == 0);
        g_assert_cmpint(count(&layer, &counts), ==, 0);
        g_assert_cmpuint(counts.n_problems, ==, rows[i].rule ? 1 : 0);
        if (rows[i].rule)
            g_assert_cmpint(g_array_index(counts.problems, Qcow2Problem, 0).rule, ==,
                            rows[i].rule);
        for (unsigned c = 0; !rows[i].rule && c < 3; c++)
            g_assert_cmpuint(qcow2_counts_get(&counts, image.area / CLUSTER + c), ==,
                             rows[i].n_in_area);
        qcow2_counts_clear(&counts);
        test_layer_close(&layer);
    }
}

/* The list of problems is bounded, but not their number. */
static void
test_many_problems(void)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 512 * CLUSTER, false);
    Qcow2Counts counts;
    TestLayer layer;

    for (uint64_t c = 0; c < 512; c++)
        image_builder_set_entry(b, b->header.l1_table_offset, c, 2, 0);
    image_builder_finish(b);
    layer = test_layer_open(b->bytes, true);
    g_assert_cmpint(count(&layer, &counts), ==, 0);
    g_assert_cmpuint(counts.n_problems, ==, 512);
    g_assert_cmpuint(counts.problems->len, ==, QCOW2_MAX_LISTED_PROBLEMS);
    qcow2_counts_clear(&counts);
    test_layer_close(&layer);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qcow2-count/counts", test_counts);
    g_test_add_func("/qcow2-count/too-large", test_too_large);
    g_test_add_func("/qcow2-count/problems", test_problems);
    g_test_add_func("/qcow2-count/many-problems", test_many_problems);
    return g_test_run();
}
