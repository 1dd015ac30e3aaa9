/* SPDX-License-Identifier: GPL-2.0-or-later */
/* codec/qcow2-refcounts.h: the byte examples of the specification, and each entry of a
 * block alone. */
#include "codec/qcow2-refcounts.h"

#include "test-util.h"

#define BLOCK_BYTES 512u

/* Spec section 7, the table of first bytes of a block, and one row for each other
 * width. */
static const struct {
    uint32_t order;
    unsigned n_bytes;
    uint8_t bytes[16];
    unsigned n_refcounts;
    uint64_t refcounts[20];
} rows[] = {
    {0, 3, {0xff, 0xff, 0x03}, 20, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                    1, 1, 1, 1, 1, 1, 1, 1, 0, 0}},
    {1, 5, {0x55, 0xff, 0xff, 0x7f, 0x15}, 20, {1, 1, 1, 1, 3, 3, 3, 3, 3, 3,
                                                3, 3, 3, 3, 3, 1, 1, 1, 1, 0}},
    {2,
     10,
     {0x11, 0x11, 0x44, 0x44, 0x44, 0x44, 0x44, 0x14, 0x11, 0x10},
     20,
     {1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 1, 1, 1, 0, 1}},
    {3, 6, {1, 1, 1, 1, 4, 4}, 6, {1, 1, 1, 1, 4, 4}},
    {4, 6, {0, 1, 0x01, 0x02, 0xff, 0xfe}, 3, {1, 0x102, 0xfffe}},
    {5, 8, {0, 0, 0, 1, 0x81, 2, 3, 4}, 2, {1, 0x81020304}},
    {6,
     16,
     {0, 0, 0, 0, 0, 0, 0, 1, 0x81, 2, 3, 4, 5, 6, 7, 8},
     2,
     {1, UINT64_C(0x8102030405060708)}},
};

static void
test_examples(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint8_t encoded[16] = {0};

        for (unsigned j = 0; j < rows[i].n_refcounts; j++) {
            g_assert_cmpuint(qcow2_refcount_decode(rows[i].bytes, rows[i].order, j), ==,
                             rows[i].refcounts[j]);
            qcow2_refcount_encode(encoded, rows[i].order, j, rows[i].refcounts[j]);
        }
        g_assert_cmpmem(encoded, sizeof encoded, rows[i].bytes, sizeof rows[i].bytes);
    }
}

static void
test_limits(void)
{
    static const uint64_t maxima[] = {1, 3, 15, 255, 65535, UINT32_MAX, UINT64_MAX};

    for (uint32_t order = 0; order <= QCOW2_MAX_REFCOUNT_ORDER; order++) {
        g_assert_cmpuint(qcow2_refcount_max(order), ==, maxima[order]);
        g_assert_cmpuint(qcow2_refcounts_per_block(9, order), ==, 4096u >> order);
        g_assert_cmpuint(qcow2_refcounts_per_block(21, order), ==, 16777216u >> order);
    }
}

/* One entry changes, and no neighbour: on a background of zeros and one of ones. */
static void
test_each_alone(void)
{
    static const uint8_t grounds[] = {0x00, 0xff};

    for (uint32_t order = 0; order <= QCOW2_MAX_REFCOUNT_ORDER; order++) {
        uint64_t n = qcow2_refcounts_per_block(9, order);
        uint64_t max = qcow2_refcount_max(order);

        for (size_t i = 0; i < G_N_ELEMENTS(grounds); i++) {
            uint8_t block[BLOCK_BYTES], untouched[BLOCK_BYTES];
            uint64_t ground = grounds[i] ? max : 0;

            memset(untouched, grounds[i], sizeof untouched);
            for (uint64_t index = 0; index < n; index++) {
                memcpy(block, untouched, sizeof block);
                qcow2_refcount_encode(block, order, index, max - ground);
                for (uint64_t j = 0; j < n; j++)
                    g_assert_cmpuint(qcow2_refcount_decode(block, order, j), ==,
                                     j == index ? max - ground : ground);
                qcow2_refcount_encode(block, order, index, ground);
                g_assert_cmpmem(block, sizeof block, untouched, sizeof untouched);
            }
        }
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2-refcounts/examples", test_examples);
    g_test_add_func("/qcow2-refcounts/limits", test_limits);
    g_test_add_func("/qcow2-refcounts/each-alone", test_each_alone);
    return g_test_run();
}
