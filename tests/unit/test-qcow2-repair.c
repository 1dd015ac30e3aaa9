/* SPDX-License-Identifier: GPL-2.0-or-later */
/* format/qcow2/check/repair.c: missing blocks; a repair that fails or is interrupted at
 * each of its writes; their order; the view of readers. */
#include <errno.h>
#include <string.h>

#include "codec/qcow2-tables.h"
#include "event-storage.h"
#include "format/qcow2/check/repair.h"
#include "format/qcow2/count/count.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/refcount.h"
#include "format/qcow2/tables/tables.h"
#include "image-builder.h"
#include "test-util.h"

#define CLUSTER     512u
#define DIRTY       UINT64_C(1)
#define COPIED      (UINT64_C(1) << 63)
#define OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define N_RICH      200u /* clusters of the disk of make_rich */

static QimgErrno
repair(TestLayer *layer)
{
    Qcow2 *q = layer->q;
    QimgErrno err;

    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    err = qcow2_refcount_load_table(q);
    return err ? err : qcow2_repair_dirty(q);
}

/* ---- images ---- */

static uint64_t
get_be64(const GByteArray *bytes, uint64_t offset)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < 8; i++)
        value = value << 8 | bytes->data[offset + i];
    return value;
}

/* A dirty disk of N_RICH clusters with data, compressed and zero clusters, shared with a
 * snapshot except those of the last L2 tables. There is one refcount block, in which half
 * of the entries are too high, the others too low; further ones are missing. */
static ImageBuilder *
make_rich(uint32_t refcount_order)
{
    ImageBuilder *b = image_builder_new(3, 9, N_RICH * CLUSTER, false);
    uint8_t content[CLUSTER];
    uint64_t block = image_builder_allocate(b, 1);

    memset(content, 0x77, sizeof content);
    image_builder_write(b, block + CLUSTER / 2, content, CLUSTER / 2);
    image_builder_put_be64(b, b->header.refcount_table_offset, block);
    for (uint64_t c = 0; c < 60; c++)
        image_builder_add_data(b, c, content);
    for (uint64_t c = 60; c < 80; c++)
        g_assert_cmpuint(image_builder_add_compressed(b, c, content), !=, 0);
    image_builder_set_entry(b, b->header.l1_table_offset, 90,
                            image_builder_allocate(b, 1) | 1, 0);
    image_builder_set_entry(b, b->header.l1_table_offset, 91, COPIED | 1, 0);
    image_builder_add_snapshot(b);
    for (uint64_t c = 130; c < N_RICH; c++)
        image_builder_add_data(b, c, content);
    b->header.refcount_order = refcount_order;
    b->header.incompatible_features |= DIRTY;
    image_builder_finish(b);
    return b;
}

/* The mapping of each cluster of the disk. */
static void
get_mapping(const GByteArray *bytes, QimgRun runs[N_RICH])
{
    TestLayer layer = test_layer_open(bytes, false);

    test_layer_get_mapping(&layer, &layer.q->base.active, runs, N_RICH);
    test_layer_close(&layer);
}

static void
assert_mapping_is(const GByteArray *bytes, const QimgRun wanted[N_RICH])
{
    QimgRun runs[N_RICH];

    get_mapping(bytes, runs);
    test_assert_same_mapping(runs, wanted, N_RICH);
}

static void
assert_flag(const Qcow2Counts *counts, uint64_t word)
{
    uint64_t offset = word & OFFSET_MASK;

    if (!(word & QCOW2_L2_COMPRESSED) && offset)
        g_assert_cmpint((word & COPIED) != 0, ==,
                        qcow2_counts_get(counts, offset / CLUSTER) == 1);
}

/* Clean: not dirty, each refcount equals the count, each flag is correct. */
static void
assert_clean(const GByteArray *bytes)
{
    TestLayer layer = test_layer_open(bytes, true);
    Qcow2 *q = layer.q;
    uint64_t l1 = q->header.l1_table_offset;
    Qcow2Counts counts;

    g_assert_cmpuint(get_be64(bytes, 72) & DIRTY, ==, 0);
    qimg_mutex_lock(qcow2_alloc_lock(q));
    g_assert_cmpint(qcow2_refcount_load_table(q), ==, 0);
    g_assert_cmpint(qcow2_count_references(q, NULL, &counts), ==, 0);
    g_assert_cmpuint(counts.n_problems, ==, 0);
    for (uint64_t c = 0; c < counts.n_clusters + 5000; c++) {
        uint64_t refcount;

        g_assert_cmpint(qcow2_refcount_get(q, c, &refcount), ==, 0);
        g_assert_cmpuint(refcount, ==, qcow2_counts_get(&counts, c));
    }
    for (uint32_t i = 0; i < q->header.n_l1_entries; i++) {
        uint64_t entry = get_be64(bytes, l1 + 8 * i);

        assert_flag(&counts, entry);
        for (unsigned k = 0; (entry & OFFSET_MASK) && k < CLUSTER; k += 8)
            assert_flag(&counts, get_be64(bytes, (entry & OFFSET_MASK) + k));
    }
    qimg_mutex_unlock(qcow2_alloc_lock(q));
    qcow2_counts_clear(&counts);
    test_layer_close(&layer);
}

/* ---- tests ---- */

/* With entries of 64 bits a block's range of clusters is full, so that the missing block
 * is added behind the file. */
static void
test_all_widths(void)
{
    for (uint32_t order = 0; order <= 6; order++) {
        g_autoptr(ImageBuilder) b = make_rich(order);
        uint64_t table_offset = b->header.refcount_table_offset;
        QimgRun before[N_RICH];
        TestLayer layer;

        get_mapping(b->bytes, before);
        layer = test_layer_open(b->bytes, true);
        if (repair(&layer) == -EIO) {
            g_assert_cmpuint(order, <=,
                             2); /* more streams in a cluster than an entry can count */
            g_assert_cmpuint(layer.storage->events->len, ==, 0);
        } else {
            assert_clean(layer.storage->bytes);
            assert_mapping_is(layer.storage->bytes, before);
            g_assert_false(layer.q->base.is_dirty);
            g_assert_cmpuint(qcow2_get_incompatible(layer.q) & DIRTY, ==, 0);
        }
        if (order == 6) { /* 64 clusters a block, all in use */
            g_assert_cmpuint(b->bytes->len, >=, 128 * CLUSTER);
            g_assert_cmpuint(get_be64(layer.storage->bytes, table_offset + 8), >=,
                             b->bytes->len);
        }
        test_layer_close(&layer);
    }
}

/* Every write in turn fails for good; then the repair is repeated without a failure. */
static void
test_failing_writes(void)
{
    static const int errnums[] = {EIO, ENOSPC};

    for (size_t i = 0; i < G_N_ELEMENTS(errnums); i++) {
        g_autoptr(ImageBuilder) b = make_rich(6);
        QimgRun before[N_RICH];
        bool is_done = false;

        get_mapping(b->bytes, before);
        for (unsigned n = 0; !is_done; n++) {
            TestLayer layer = test_layer_open(b->bytes, true);
            TestLayer again;
            QimgErrno err;

            layer.storage->errnum = errnums[i];
            layer.storage->n_until_failure = n;
            err = repair(&layer);
            is_done = err == 0;
            if (!is_done) {
                g_assert_cmpint(err, ==, -errnums[i]);
                g_assert_true(layer.q->base.is_dirty);
                g_assert_cmpuint(get_be64(layer.storage->bytes, 72) & DIRTY, ==, DIRTY);
            } else {
                g_assert_cmpuint(n, >, 8); /* the faults were met */
            }
            assert_mapping_is(layer.storage->bytes, before);
            again = test_layer_open(layer.storage->bytes, true);
            g_assert_cmpint(repair(&again), ==, 0);
            assert_clean(again.storage->bytes);
            test_layer_close(&again);
            test_layer_close(&layer);
        }
    }
}

static void
test_power_cuts(void)
{
    static const uint64_t kept[] = {0, UINT64_MAX, UINT64_C(0x5555555555555555),
                                    UINT64_C(0xaaaaaaaaaaaaaaaa),
                                    UINT64_C(0x9249249249249249)};
    g_autoptr(ImageBuilder) b = make_rich(6);
    TestLayer layer = test_layer_open(b->bytes, true);
    const GArray *events = layer.storage->events;
    QimgRun before[N_RICH];

    get_mapping(b->bytes, before);
    g_assert_cmpint(repair(&layer), ==, 0);
    g_assert_cmpuint(events->len, >, 12);
    for (guint end = 0; end <= events->len; end++) {
        for (size_t i = 0; i < G_N_ELEMENTS(kept); i++) {
            GByteArray *bytes =
                event_storage_after_power_cut(b->bytes, events, end, kept[i]);
            TestLayer again = test_layer_open(bytes, true);

            assert_mapping_is(bytes, before);
            if (again.q->base.is_dirty) {
                g_assert_cmpint(repair(&again), ==, 0);
                assert_clean(again.storage->bytes);
                assert_mapping_is(again.storage->bytes, before);
            } else { /* only the very last write was affected */
                assert_clean(bytes);
            }
            test_layer_close(&again);
            g_byte_array_unref(bytes);
        }
    }
    test_layer_close(&layer);
}

/* No refcount is too low. */
static void
assert_none_too_low(const GByteArray *bytes)
{
    TestLayer layer = test_layer_open(bytes, true);
    Qcow2 *q = layer.q;
    Qcow2Counts counts;

    qimg_mutex_lock(qcow2_alloc_lock(q));
    g_assert_cmpint(qcow2_refcount_load_table(q), ==, 0);
    g_assert_cmpint(qcow2_count_references(q, NULL, &counts), ==, 0);
    for (uint64_t c = 0; c < counts.n_clusters; c++) {
        uint64_t refcount;

        g_assert_cmpint(qcow2_refcount_get(q, c, &refcount), ==, 0);
        g_assert_cmpuint(refcount, >=, qcow2_counts_get(&counts, c));
    }
    qimg_mutex_unlock(qcow2_alloc_lock(q));
    qcow2_counts_clear(&counts);
    test_layer_close(&layer);
}

/* All refcounts that are too low are raised, durably, before any flag is corrected; only
 * then any is lowered. The dirty bit is cleared by the last write, after a sync, and is
 * itself synced. */
static void
test_order(void)
{
    g_autoptr(ImageBuilder) b = make_rich(4);
    TestLayer layer = test_layer_open(b->bytes, true);
    const GArray *events = layer.storage->events;
    bool is_flag_written = false;
    const uint8_t *block;
    GByteArray *bytes;
    guint end = 0;
    guint n;

    block = b->bytes->data + image_builder_get_be64(b, b->header.refcount_table_offset);
    g_assert_cmpint(repair(&layer), ==, 0);
    n = events->len;
    while (!is_flag_written && end < n) {
        QimgIoPurpose purpose = g_array_index(events, StorageEvent, end++).purpose;

        is_flag_written = purpose == QIMG_IO_L1 || purpose == QIMG_IO_L2;
    }
    g_assert_true(is_flag_written);
    bytes = event_storage_after_power_cut(b->bytes, events, end - 1, 0);
    assert_none_too_low(bytes);
    g_assert_cmpmem(bytes->data + (block - b->bytes->data) + CLUSTER / 2, CLUSTER / 2,
                    block + CLUSTER / 2, CLUSTER / 2); /* the entries that are too high */
    g_byte_array_unref(bytes);
    g_assert_cmpuint(n, >, 4);
    g_assert_null(g_array_index(events, StorageEvent, n - 1).bytes);
    g_assert_cmpint(g_array_index(events, StorageEvent, n - 2).purpose, ==,
                    QIMG_IO_HEADER);
    g_assert_cmpuint(g_array_index(events, StorageEvent, n - 2).file_offset, ==, 72);
    g_assert_null(g_array_index(events, StorageEvent, n - 3).bytes);
    for (guint i = 0; i < n - 2; i++)
        if (g_array_index(events, StorageEvent, i).bytes)
            g_assert_cmpint(g_array_index(events, StorageEvent, i).purpose, !=,
                            QIMG_IO_HEADER);
    test_layer_close(&layer);
}

/* Slices in the readers' cache are corrected, too. */
static void
test_cached_slices(void)
{
    g_autoptr(ImageBuilder) b = make_rich(4);
    uint64_t l1_offset = b->header.l1_table_offset;
    uint64_t last = image_builder_get_be64(b, l1_offset + 3 * 8);
    table_autoslice l1 = {0};
    Qcow2L2Slice l2;
    TestLayer layer;

    /* The last table is the active disk's alone: remove its flags. */
    image_builder_put_be64(b, l1_offset + 3 * 8, last & ~COPIED);
    image_builder_put_be64(b, last & OFFSET_MASK,
                           image_builder_get_be64(b, last & OFFSET_MASK) & ~COPIED);
    layer = test_layer_open(b->bytes, true);
    g_assert_cmpint(
        qimg_format_pin(&layer.q->base, TABLE_L1, l1_offset, TABLE_SLICE_WORDS, &l1), ==,
        0);
    g_assert_cmpint(qcow2_l2_pin(layer.q, last & OFFSET_MASK, 0, &l2), ==, 0);
    g_assert_cmpuint(table_slice_get(&l1, 0) & COPIED, ==, COPIED);
    g_assert_cmpuint(table_slice_get(&l1, 3) & COPIED, ==, 0);
    g_assert_cmpuint(table_slice_get(&l2.slice, 0) & COPIED, ==, 0);
    table_slice_unpin(&l2.slice); /* stays in the cache */
    g_assert_cmpint(repair(&layer), ==, 0);
    g_assert_cmpuint(table_slice_get(&l1, 0) & COPIED, ==, 0); /* shared */
    g_assert_cmpuint(table_slice_get(&l1, 3), ==, last | COPIED);
    g_assert_cmpint(qcow2_l2_pin(layer.q, last & OFFSET_MASK, 0, &l2), ==, 0);
    g_assert_cmpuint(table_slice_get(&l2.slice, 0) & COPIED, ==, COPIED);
    table_slice_unpin(&l2.slice);
    table_slice_unpin(&l1);
    assert_clean(layer.storage->bytes);
    test_layer_close(&layer);
}

/* A file that claims more clusters than can be counted. */
static void
test_too_large(void)
{
    g_autoptr(ImageBuilder) b = make_rich(4);
    TestLayer layer = test_layer_open(b->bytes, true);

    layer.storage->claimed_size = QCOW2_MAX_COUNT_BYTES / 4 * CLUSTER;
    g_assert_cmpint(repair(&layer), ==, -EFBIG);
    g_assert_true(atomic_load(&layer.q->base.broken));
    g_assert_cmpuint(layer.storage->events->len, ==, 0);
    test_layer_close(&layer);
}

/* Any bytes in place of tables: either nothing is written, or the image is sound. */
static void
test_hostile(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(test_util_seed());
    unsigned n_repaired = 0, n_refused = 0;

    for (unsigned round = 0; round < 600; round++) {
        g_autoptr(ImageBuilder) b = make_rich((uint32_t)g_rand_int_range(random, 3, 7));
        unsigned n_changes = (unsigned)g_rand_int_range(random, 1, 4);
        TestLayer layer;

        for (unsigned i = 0; i < n_changes; i++) {
            /* The opener checks the header and the snapshot table. */
            guint end = g_rand_boolean(random) ? 4 * CLUSTER : b->bytes->len;
            uint64_t at =
                (uint64_t)g_rand_int_range(random, CLUSTER, (gint32)end) & ~UINT64_C(7);
            uint64_t cluster = (uint64_t)g_rand_int_range(random, 0, 140);
            uint64_t flags = (uint64_t)g_rand_int_range(random, 0, 4) << 62;

            if (at / CLUSTER != b->header.snapshots_offset / CLUSTER)
                image_builder_put_be64(b, at, flags | cluster * CLUSTER);
        }
        layer = test_layer_open(b->bytes, true);
        qimg_mutex_lock(qcow2_alloc_lock(layer.q));
        if (qcow2_refcount_load_table(layer.q) == 0) {
            QimgErrno err = qcow2_repair_dirty(layer.q);

            qimg_mutex_unlock(qcow2_alloc_lock(layer.q));
            if (err) {
                g_assert_cmpint(err, ==, -EIO);
                g_assert_cmpuint(layer.storage->events->len, ==, 0);
                n_refused++;
            } else {
                assert_clean(layer.storage->bytes);
                n_repaired++;
            }
        } else {
            qimg_mutex_unlock(qcow2_alloc_lock(layer.q));
        }
        test_layer_close(&layer);
    }
    g_test_message("%u repaired, %u refused", n_repaired, n_refused);
    g_assert_cmpuint(n_repaired, >, 100);
    g_assert_cmpuint(n_refused, >, 15);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qcow2-repair/all-widths", test_all_widths);
    g_test_add_func("/qcow2-repair/failing-writes", test_failing_writes);
    g_test_add_func("/qcow2-repair/power-cuts", test_power_cuts);
    g_test_add_func("/qcow2-repair/order", test_order);
    g_test_add_func("/qcow2-repair/cached-slices", test_cached_slices);
    g_test_add_func("/qcow2-repair/too-large", test_too_large);
    g_test_add_func("/qcow2-repair/hostile", test_hostile);
    return g_test_run();
}
