/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images/bitmap-dir.h"

#include "images/names.h"

static void
clear_bitmap_dir(NameDir *dir)
{
    g_array_unref(((BitmapDir *)dir)->places);
}

void
bitmap_dir_unref(BitmapDir *dir)
{
    name_dir_unref(&dir->files);
}

/* Adds the bitmaps of one layer. */
static void
add_bitmaps_of(BitmapDir *dir, QimgImage *image, unsigned layer)
{
    g_autoptr(QimgImage) handle = qimg_image_open_layer(image, layer, NULL);
    g_autoptr(QimgBitmaps) list = handle ? qimg_image_read_bitmaps(handle, NULL) : NULL;

    for (unsigned i = 0; list && i < qimg_bitmaps_get_n(list); i++) {
        BitmapPlace place = {layer, i};

        name_dir_add(&dir->files, names_of_bitmap(qimg_bitmaps_get(list, i), layer,
                                                  dir->places->len, dir->files.by_name));
        g_array_append_val(dir->places, place);
    }
}

BitmapDir *
bitmap_dir_get(NameDirCache *cache, QimgImage *image)
{
    BitmapDir *dir = name_dir_cache_get(cache);

    if (dir)
        return dir;
    dir = name_dir_new(sizeof *dir, clear_bitmap_dir);
    dir->places = g_array_new(FALSE, FALSE, sizeof(BitmapPlace));
    for (unsigned i = 0; i < qimg_image_get_n_layers(image); i++)
        add_bitmaps_of(dir, image, i);
    name_dir_cache_put(cache, &dir->files);
    return dir;
}

const BitmapPlace *
bitmap_dir_find(const BitmapDir *dir, unsigned index)
{
    return index < dir->places->len ? &g_array_index(dir->places, BitmapPlace, index)
                                    : NULL;
}
