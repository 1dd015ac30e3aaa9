/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Caches the measured sizes of control files, so that a stat generates no text while the
 * image is unchanged. Keeps a fixed number of recent ones. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The text, and the state of its image. */
typedef struct {
    uint64_t inode;     /* of the node */
    uint64_t opening;   /* ImageEntry.opening */
    uint64_t n_changes; /* qimg_image_count_changes */
    uint64_t n_blocks;  /* allocated by the image's files */
    unsigned version;   /* of the disk's table of partitions */
} TextKey;

typedef struct TextSizes TextSizes;

TextSizes *text_sizes_new(void);
void text_sizes_free(TextSizes *sizes);

/* The size added for exactly this @key. Any thread. */
bool text_sizes_find(TextSizes *sizes, const TextKey *key, uint64_t *n_bytes_out);

/* Any thread. @key must be from before the text was generated. */
void text_sizes_add(TextSizes *sizes, const TextKey *key, uint64_t n_bytes);
