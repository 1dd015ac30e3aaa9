/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sequence is splitmix64: any state is a good one, and hashing makes streams. */
#include "draw.h"

#include <string.h>

uint64_t
draw_u64(Draw *draw)
{
    uint64_t z = (draw->state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

Draw
draw_new(uint64_t seed, uint64_t phase, uint64_t thread)
{
    Draw draw = {seed};

    draw.state = draw_u64(&draw) ^ phase;
    draw.state = draw_u64(&draw) ^ thread;
    draw.state = draw_u64(&draw);
    return draw;
}

uint64_t
draw_below(Draw *draw, uint64_t n)
{
    return draw_u64(draw) % n;
}

bool
draw_chance(Draw *draw, unsigned percent)
{
    return draw_below(draw, 100) < percent;
}

void
draw_content(Draw *draw, uint8_t *buffer, size_t n_bytes)
{
    uint64_t kind = draw_below(draw, 16);

    if (kind < 2) {
        memset(buffer, kind == 0 ? 0 : (int)draw_below(draw, 256), n_bytes);
        return;
    }
    for (size_t at = 0; at < n_bytes; at += sizeof(uint64_t)) {
        uint64_t word = draw_u64(draw);
        size_t left = n_bytes - at;

        memcpy(buffer + at, &word, left < sizeof word ? left : sizeof word);
    }
}

void
draw_places(Draw *draw, uint64_t size_bytes, uint64_t cluster_bytes,
            DrawPlaces *places_out)
{
    places_out->cluster_bytes = cluster_bytes;
    places_out->prefers_small = draw_chance(draw, 50);
    for (unsigned i = 0; i < DRAW_N_HOT; i++)
        places_out->hot[i] = size_bytes > 0 ? draw_below(draw, size_bytes) : 0;
}

uint64_t
draw_length(Draw *draw, const DrawPlaces *places)
{
    uint64_t cluster = places->cluster_bytes;
    uint64_t length;

    switch (draw_below(draw, places->prefers_small ? 7 : 10)) {
    case 0:
        return 1 + draw_below(draw, 16);
    case 1:
        return 511 + draw_below(draw, 3);
    case 2:
        return 512 * (1 + draw_below(draw, 16));
    case 3:
    case 4:
        return 1 + draw_below(draw, 4096);
    case 5:
        return cluster < DRAW_MAX_BYTES ? cluster - 1 + draw_below(draw, 3) : 4096;
    case 6:
        length = 1 + draw_below(draw, cluster);
        break;
    case 7:
        length = cluster * (1 + draw_below(draw, 8));
        break;
    case 8:
        length = 1 + draw_below(draw, 65536);
        break;
    default:
        length = 1 + draw_below(draw, DRAW_MAX_BYTES);
        break;
    }
    return length < DRAW_MAX_BYTES ? length : DRAW_MAX_BYTES;
}

/* @at moved by a few bytes to either side. */
static uint64_t
draw_near(Draw *draw, uint64_t at)
{
    static const uint64_t distances[] = {0, 0, 0, 1, 7, 511, 512, 4096};
    uint64_t distance = distances[draw_below(draw, 8)];

    return draw_chance(draw, 50) ? at + distance : (at > distance ? at - distance : 0);
}

void
draw_range(Draw *draw, const DrawPlaces *places, uint64_t size_bytes, uint64_t *start_out,
           uint64_t *length_out)
{
    uint64_t length = draw_length(draw, places);
    uint64_t start = draw_below(draw, size_bytes);

    switch (draw_below(draw, 8)) {
    case 0: /* at the end of the disk */
        start = size_bytes > length ? size_bytes - length : 0;
        start = draw_near(draw, start);
        break;
    case 1:
    case 2: /* at the border of a cluster, before or behind it */
        start -= start % places->cluster_bytes;
        if (draw_chance(draw, 30) && start >= length)
            start -= length;
        start = draw_near(draw, start);
        break;
    case 3:
        start -= start % 512;
        break;
    case 4:
    case 5:
        start = draw_near(draw, places->hot[draw_below(draw, DRAW_N_HOT)]);
        break;
    default:
        break;
    }
    if (start >= size_bytes)
        start = size_bytes - 1;
    *start_out = start;
    *length_out = length < size_bytes - start ? length : size_bytes - start;
}
