/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Random numbers that are the same everywhere for one seed, and ranges of a disk drawn
 * where errors are likely: at borders, at the end, repeatedly at the same places. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t state;
} Draw;

/* A separate sequence for each (@seed, @phase, @thread). */
Draw draw_new(uint64_t seed, uint64_t phase, uint64_t thread);

uint64_t draw_u64(Draw *draw);

/* From 0 to @n - 1; @n > 0. */
uint64_t draw_below(Draw *draw, uint64_t n);

/* True @percent times of a hundred. */
bool draw_chance(Draw *draw, unsigned percent);

/* Fills @buffer with content that hardly recurs, so that a byte in the wrong place is
 * noticed; occasionally with one value, or with zeros. */
void draw_content(Draw *draw, uint8_t *buffer, size_t n_bytes);

#define DRAW_MAX_BYTES (1024 * 1024u)
#define DRAW_N_HOT     6u

/* The places from which ranges are drawn. */
typedef struct {
    uint64_t cluster_bytes;
    uint64_t hot[DRAW_N_HOT];
    bool prefers_small;
} DrawPlaces;

void draw_places(Draw *draw, uint64_t size_bytes, uint64_t cluster_bytes,
                 DrawPlaces *places_out);

/* A range inside a disk of @size_bytes > 0: 1 to DRAW_MAX_BYTES bytes. */
void draw_range(Draw *draw, const DrawPlaces *places, uint64_t size_bytes,
                uint64_t *start_out, uint64_t *length_out);

/* A length alone. */
uint64_t draw_length(Draw *draw, const DrawPlaces *places);
