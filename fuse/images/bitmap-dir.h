/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The persistent bitmaps of all layers of an image as one directory shows them: their
 * file names, read on first use. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "base/lock.h"
#include "qimg.h"

typedef struct {
    unsigned layer;
    unsigned place; /* in the layer's list */
} BitmapPlace;

typedef struct {
    GArray *places;      /* BitmapPlace, from the top layer down */
    GPtrArray *names;    /* char *, in the same order */
    GHashTable *by_name; /* its strings, to indices */
} BitmapDir;

/* Holds an image's directory. */
typedef struct {
    QimgMutex lock;
    BitmapDir *present; /* guarded by lock; NULL until requested */
} BitmapDirCache;

void bitmap_dir_cache_init(BitmapDirCache *cache);
void bitmap_dir_cache_clear(BitmapDirCache *cache);

/* The directory of @image; free with bitmap_dir_unref. Layers whose list cannot be read
 * are left out. Any thread; the first call reads. */
BitmapDir *bitmap_dir_get(BitmapDirCache *cache, QimgImage *image);
void bitmap_dir_unref(BitmapDir *dir);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(BitmapDir, bitmap_dir_unref)

/* The place of the bitmap with that index; NULL past the last. */
const BitmapPlace *bitmap_dir_find(const BitmapDir *dir, unsigned index);

/* The index of the bitmap with that file name. */
bool bitmap_dir_find_name(const BitmapDir *dir, const char *name, unsigned *index_out);
