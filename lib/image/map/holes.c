/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Regions of a disk known to hold no data: one bit for each of at most 65536 regions of
 * equal size. Copying programs scan the holes of a disk more than once, and an empty L2
 * table takes as long to scan as a full one. The bits stay valid because an opened chain
 * never changes. */
#include "image/map/holes.h"

#include <stdatomic.h>

#include "base/checked.h"

#define N_REGIONS       65536u
#define MIN_REGION_BITS 12u

struct HoleMap {
    unsigned region_bits; /* const */
    _Atomic uint64_t
        words[N_REGIONS / 64]; /* atomic, relaxed: each bit is valid by itself */
};

HoleMap *
hole_map_new(uint64_t size_bytes)
{
    HoleMap *map = g_new0(HoleMap, 1);

    map->region_bits = MIN_REGION_BITS;
    while (size_bytes >> map->region_bits >= N_REGIONS)
        map->region_bits++;
    return map;
}

void
hole_map_free(HoleMap *map)
{
    g_free(map);
}

void
hole_map_add(HoleMap *map, uint64_t start, uint64_t end)
{
    uint64_t first = qimg_div_round_up(start, UINT64_C(1) << map->region_bits);
    uint64_t last = qimg_min_u64(end >> map->region_bits, N_REGIONS);

    for (uint64_t i = first; i < last; i = (i / 64 + 1) * 64) {
        _Atomic uint64_t *word = &map->words[i / 64];
        uint64_t n = qimg_min_u64(last - i, 64 - i % 64);
        uint64_t bits = (UINT64_MAX >> (64 - n)) << (i % 64);

        if ((atomic_load_explicit(word, memory_order_relaxed) & bits) != bits)
            atomic_fetch_or_explicit(word, bits, memory_order_relaxed);
    }
}

uint64_t
hole_map_skip(const HoleMap *map, uint64_t offset)
{
    uint64_t i = offset >> map->region_bits;

    while (i < N_REGIONS) {
        uint64_t word = atomic_load_explicit(&map->words[i / 64], memory_order_relaxed);
        uint64_t unknown = ~word >> (i % 64);

        if (unknown) {
            i += (uint64_t)__builtin_ctzll(unknown);
            break;
        }
        i = (i / 64 + 1) * 64;
    }
    return qimg_max_u64(offset, i << map->region_bits);
}
