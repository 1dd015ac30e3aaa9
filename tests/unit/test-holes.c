/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/map/holes.c: the known holes of a disk never exceed the reported ones. */
#include "image/map/holes.h"
#include "test-util.h"

#define MIB (UINT64_C(1) << 20)

static void
test_regions(void)
{
    /* A region is the 65536th part of the disk, and 4 KiB of a small one. */
    static const struct {
        uint64_t size_bytes;
        uint64_t region_bytes;
    } rows[] = {
        {0, 4096},
        {MIB, 4096},
        {256 * MIB, 8192}, /* so that the map also includes the end */
        {256 * MIB - 1, 4096},
        {UINT64_C(1) << 40, 32 * MIB},
        {UINT64_C(1) << 62, UINT64_C(1) << 47},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint64_t r = rows[i].region_bytes;
        HoleMap *map = hole_map_new(rows[i].size_bytes);

        g_assert_cmpuint(hole_map_skip(map, 0), ==, 0);
        g_assert_cmpuint(hole_map_skip(map, 12345), ==, 12345);
        /* A hole that covers no whole region does not count. */
        hole_map_add(map, 1, 2 * r - 1);
        g_assert_cmpuint(hole_map_skip(map, 0), ==, 0);
        g_assert_cmpuint(hole_map_skip(map, r), ==, r);
        hole_map_add(map, 1, 2 * r);
        g_assert_cmpuint(hole_map_skip(map, r - 1), ==, r - 1);
        g_assert_cmpuint(hole_map_skip(map, r), ==, 2 * r);
        g_assert_cmpuint(hole_map_skip(map, 2 * r - 1), ==, 2 * r);
        g_assert_cmpuint(hole_map_skip(map, 2 * r), ==, 2 * r);
        /* Across the words of the map. */
        hole_map_add(map, 2 * r, 200 * r + 5);
        g_assert_cmpuint(hole_map_skip(map, r + 7), ==, 200 * r);
        g_assert_cmpuint(hole_map_skip(map, 200 * r + 1), ==, 200 * r + 1);
        hole_map_add(map, 201 * r, UINT64_MAX);
        g_assert_cmpuint(hole_map_skip(map, 200 * r), ==, 200 * r);
        g_assert_cmpuint(hole_map_skip(map, 201 * r), >=, rows[i].size_bytes);
        hole_map_free(map);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/holes/regions", test_regions);
    return g_test_run();
}
