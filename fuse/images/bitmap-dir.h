/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The persistent bitmaps of all layers of an image as one directory shows them: their
 * file names, read on first use. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "images/name-dir.h"
#include "qimg.h"

typedef struct {
    unsigned layer;
    unsigned place; /* in the layer's list */
} BitmapPlace;

typedef struct {
    NameDir files;  /* from the top layer down */
    GArray *places; /* BitmapPlace, in the same order */
} BitmapDir;

/* The directory of @image; free with bitmap_dir_unref. Layers whose list cannot be read
 * are left out. Any thread; the first call reads. */
BitmapDir *bitmap_dir_get(NameDirCache *cache, QimgImage *image);
void bitmap_dir_unref(BitmapDir *dir);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(BitmapDir, bitmap_dir_unref)

/* The place of the bitmap with that index; NULL past the last. */
const BitmapPlace *bitmap_dir_find(const BitmapDir *dir, unsigned index);
