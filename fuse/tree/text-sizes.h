/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes of control files that were measured by making their texts: so that a stat makes
 * none as long as nothing of the image has changed. A number of the last ones is kept. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Which text, and of what state of its image. */
typedef struct {
    uint64_t inode;     /* of the node */
    uint64_t opening;   /* ImageEntry.opening */
    uint64_t n_changes; /* qimg_image_count_changes */
    uint64_t n_blocks;  /* what the image's files occupy */
    unsigned version;   /* of the disk's table of partitions */
} TextKey;

typedef struct TextSizes TextSizes;

TextSizes *text_sizes_new(void);
void text_sizes_free(TextSizes *sizes);

/* The size that was added for just that @key. Any thread. */
bool text_sizes_find(TextSizes *sizes, const TextKey *key, uint64_t *n_bytes_out);

/* Any thread. @key is of before the text was made. */
void text_sizes_add(TextSizes *sizes, const TextKey *key, uint64_t n_bytes);
