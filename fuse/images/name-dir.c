/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images/name-dir.h"

void *
name_dir_new(size_t n_bytes, void (*clear)(NameDir *dir))
{
    NameDir *dir = g_atomic_rc_box_alloc0(n_bytes);

    dir->names = g_ptr_array_new_with_free_func(g_free);
    dir->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    dir->clear = clear;
    return dir;
}

static void
clear_name_dir(gpointer data)
{
    NameDir *dir = data;

    dir->clear(dir);
    g_hash_table_unref(dir->by_name);
    g_ptr_array_unref(dir->names);
}

void
name_dir_unref(NameDir *dir)
{
    g_atomic_rc_box_release_full(dir, clear_name_dir);
}

void
name_dir_add(NameDir *dir, char *name)
{
    g_hash_table_insert(dir->by_name, name, GUINT_TO_POINTER(dir->names->len));
    g_ptr_array_add(dir->names, name);
}

bool
name_dir_find(const NameDir *dir, const char *name, unsigned *place_out)
{
    gpointer place;

    if (!g_hash_table_lookup_extended(dir->by_name, name, NULL, &place))
        return false;
    *place_out = GPOINTER_TO_UINT(place);
    return true;
}

void
name_dir_cache_init(NameDirCache *cache)
{
    qimg_mutex_init(&cache->lock, QIMG_RANK_SNAPSHOTS);
    cache->present = NULL;
}

void
name_dir_cache_clear(NameDirCache *cache)
{
    g_clear_pointer(&cache->present, name_dir_unref);
    qimg_mutex_clear(&cache->lock);
}

void *
name_dir_cache_get(NameDirCache *cache)
{
    QIMG_LOCK_SCOPE(&cache->lock);

    return cache->present ? g_atomic_rc_box_acquire(cache->present) : NULL;
}

void
name_dir_cache_put(NameDirCache *cache, NameDir *dir)
{
    NameDir *old;

    qimg_mutex_lock(&cache->lock);
    old = cache->present;
    cache->present = g_atomic_rc_box_acquire(dir);
    qimg_mutex_unlock(&cache->lock);
    if (old)
        name_dir_unref(old);
}
