/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/checked.h and base/endian.h: the borders of each function. */
#include "base/checked.h"

#include "base/endian.h"
#include "test-util.h"

#define TOP UINT64_MAX

static void
test_add_mul(void)
{
    static const struct {
        uint64_t a, b;
        bool adds, multiplies;
    } rows[] = {
        {0, 0, true, true},
        {TOP, 0, true, true},
        {TOP, 1, false, true},
        {1, TOP, false, true},
        {TOP - 1, 1, true, true},
        {UINT64_C(1) << 63, UINT64_C(1) << 63, false, false},
        {UINT64_C(1) << 32, UINT64_C(1) << 31, true, true},
        {UINT64_C(1) << 32, UINT64_C(1) << 32, true, false},
        {TOP / 3, 3, true, true},
        {TOP / 3 + 1, 3, true, false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint64_t out = 77;

        g_assert_cmpint(qimg_add_u64(rows[i].a, rows[i].b, &out), ==, rows[i].adds);
        g_assert_cmpuint(out, ==, rows[i].adds ? rows[i].a + rows[i].b : 77);
        out = 77;
        g_assert_cmpint(qimg_mul_u64(rows[i].a, rows[i].b, &out), ==, rows[i].multiplies);
        g_assert_cmpuint(out, ==, rows[i].multiplies ? rows[i].a * rows[i].b : 77);
    }
}

static void
test_range_fits(void)
{
    static const struct {
        uint64_t offset, length, limit;
        bool fits;
    } rows[] = {
        {0, 0, 0, true},      {0, 1, 0, false},       {1, 0, 0, false},
        {10, 0, 10, true},    {10, 1, 10, false},     {3, 7, 10, true},
        {3, 8, 10, false},    {TOP, 1, TOP, false},   {TOP, 0, TOP, true},
        {5, TOP, TOP, false}, {TOP, TOP, TOP, false}, {0, TOP, TOP, true},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        g_assert_cmpint(qimg_range_fits(rows[i].offset, rows[i].length, rows[i].limit),
                        ==, rows[i].fits);
}

static void
test_align(void)
{
    uint64_t out = 77;

    g_assert_true(qimg_is_aligned(0, 512));
    g_assert_true(qimg_is_aligned(1024, 512));
    g_assert_false(qimg_is_aligned(1023, 512));
    g_assert_true(qimg_is_aligned(TOP, 1));
    g_assert_cmpuint(qimg_align_down(1023, 512), ==, 512);
    g_assert_cmpuint(qimg_align_down(TOP, UINT64_C(1) << 63), ==, UINT64_C(1) << 63);
    g_assert_true(qimg_align_up(1, 512, &out));
    g_assert_cmpuint(out, ==, 512);
    g_assert_true(qimg_align_up(TOP - 511, 512, &out));
    g_assert_cmpuint(out, ==, TOP - 511);
    out = 77;
    g_assert_false(qimg_align_up(TOP - 510, 512, &out));
    g_assert_cmpuint(out, ==, 77);
    g_assert_cmpuint(qimg_div_round_up(0, 3), ==, 0);
    g_assert_cmpuint(qimg_div_round_up(9, 3), ==, 3);
    g_assert_cmpuint(qimg_div_round_up(10, 3), ==, 4);
    g_assert_cmpuint(qimg_div_round_up(TOP, 1), ==, TOP);
    g_assert_cmpuint(qimg_div_round_up(TOP, 2), ==, UINT64_C(1) << 63);
    g_assert_cmpuint(qimg_min_u64(3, TOP), ==, 3);
    g_assert_cmpuint(qimg_max_u64(3, TOP), ==, TOP);
}

static void
test_endian(void)
{
    static const uint8_t bytes[9] = {0xff, 1, 2, 3, 4, 5, 6, 7, 0xfe};
    qimg_be16 be16;
    qimg_be32 be32;
    qimg_be64 be64;
    uint64_t words[2];

    memcpy(&be16, bytes + 1, sizeof be16); /* from an odd address on purpose */
    memcpy(&be32, bytes + 1, sizeof be32);
    memcpy(&be64, bytes + 1, sizeof be64);
    g_assert_cmphex(qimg_be16_get(be16), ==, 0x0102);
    g_assert_cmphex(qimg_be32_get(be32), ==, 0x01020304);
    g_assert_cmphex(qimg_be64_get(be64), ==, UINT64_C(0x01020304050607fe));
    memcpy(words, bytes, 8);
    memcpy(words + 1, bytes + 1, 8);
    qimg_be64_array_to_host(words, 2);
    g_assert_cmphex(words[0], ==, UINT64_C(0xff01020304050607));
    g_assert_cmphex(words[1], ==, UINT64_C(0x01020304050607fe));
    qimg_be64_array_to_host(words, 0);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/checked/add-mul", test_add_mul);
    g_test_add_func("/checked/range-fits", test_range_fits);
    g_test_add_func("/checked/align", test_align);
    g_test_add_func("/endian", test_endian);
    return g_test_run();
}
