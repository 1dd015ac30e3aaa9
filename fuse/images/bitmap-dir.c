/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images/bitmap-dir.h"

#include "images/names.h"

void
bitmap_dir_cache_init(BitmapDirCache *cache)
{
    qimg_mutex_init(&cache->lock, QIMG_RANK_SNAPSHOTS);
    cache->present = NULL;
}

void
bitmap_dir_cache_clear(BitmapDirCache *cache)
{
    if (cache->present)
        bitmap_dir_unref(cache->present);
    qimg_mutex_clear(&cache->lock);
}

static void
clear_bitmap_dir(gpointer data)
{
    BitmapDir *dir = data;

    g_hash_table_unref(dir->by_name);
    g_ptr_array_unref(dir->names);
    g_array_unref(dir->places);
}

void
bitmap_dir_unref(BitmapDir *dir)
{
    g_atomic_rc_box_release_full(dir, clear_bitmap_dir);
}

/* Adds the bitmaps of one layer. */
static void
add_bitmaps_of(BitmapDir *dir, QimgImage *image, unsigned layer)
{
    g_autoptr(QimgImage) handle = qimg_image_open_layer(image, layer, NULL);
    g_autoptr(QimgBitmaps) list = handle ? qimg_image_read_bitmaps(handle, NULL) : NULL;

    for (unsigned i = 0; list && i < qimg_bitmaps_get_n(list); i++) {
        BitmapPlace place = {layer, i};
        char *name = names_of_bitmap(qimg_bitmaps_get(list, i), layer, dir->names->len,
                                     dir->by_name);

        g_hash_table_insert(dir->by_name, name, GUINT_TO_POINTER(dir->names->len));
        g_ptr_array_add(dir->names, name);
        g_array_append_val(dir->places, place);
    }
}

static BitmapDir *
make_bitmap_dir(QimgImage *image)
{
    BitmapDir *dir = g_atomic_rc_box_new0(BitmapDir);

    dir->places = g_array_new(FALSE, FALSE, sizeof(BitmapPlace));
    dir->names = g_ptr_array_new_with_free_func(g_free);
    dir->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    for (unsigned i = 0; i < qimg_image_get_n_layers(image); i++)
        add_bitmaps_of(dir, image, i);
    return dir;
}

static BitmapDir *
get_present(BitmapDirCache *cache)
{
    BitmapDir *dir;

    qimg_mutex_lock(&cache->lock);
    dir = cache->present ? g_atomic_rc_box_acquire(cache->present) : NULL;
    qimg_mutex_unlock(&cache->lock);
    return dir;
}

BitmapDir *
bitmap_dir_get(BitmapDirCache *cache, QimgImage *image)
{
    BitmapDir *dir = get_present(cache);

    if (dir)
        return dir;
    dir = make_bitmap_dir(image); /* without the lock: it reads */
    qimg_mutex_lock(&cache->lock);
    if (cache->present) { /* another thread was faster */
        bitmap_dir_unref(dir);
        dir = cache->present;
    }
    cache->present = dir;
    dir = g_atomic_rc_box_acquire(dir);
    qimg_mutex_unlock(&cache->lock);
    return dir;
}

const BitmapPlace *
bitmap_dir_find(const BitmapDir *dir, unsigned index)
{
    return index < dir->places->len ? &g_array_index(dir->places, BitmapPlace, index)
                                    : NULL;
}

bool
bitmap_dir_find_name(const BitmapDir *dir, const char *name, unsigned *index_out)
{
    gpointer index;

    if (!g_hash_table_lookup_extended(dir->by_name, name, NULL, &index))
        return false;
    *index_out = GPOINTER_TO_UINT(index);
    return true;
}
