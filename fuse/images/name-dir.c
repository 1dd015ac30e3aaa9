/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images/name-dir.h"

void *
name_dir_new(size_t n_bytes, void (*clear)(NameDir *dir))
{
    NameDir *dir = g_malloc0(n_bytes);

    atomic_init(&dir->n_references, 1);
    dir->names = g_ptr_array_new_with_free_func(g_free);
    dir->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    dir->clear = clear;
    return dir;
}

static void *
add_reference(NameDir *dir)
{
    atomic_fetch_add_explicit(&dir->n_references, 1, memory_order_relaxed);
    return dir;
}

void
name_dir_unref(NameDir *dir)
{
    /* Acquire and release: the last user frees after the others have read. */
    if (atomic_fetch_sub_explicit(&dir->n_references, 1, memory_order_acq_rel) > 1)
        return;
    dir->clear(dir);
    g_hash_table_unref(dir->by_name);
    g_ptr_array_unref(dir->names);
    g_free(dir);
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

    return cache->present ? add_reference(cache->present) : NULL;
}

void
name_dir_cache_put(NameDirCache *cache, NameDir *dir)
{
    NameDir *old;

    qimg_mutex_lock(&cache->lock);
    old = cache->present;
    cache->present = add_reference(dir);
    qimg_mutex_unlock(&cache->lock);
    if (old)
        name_dir_unref(old);
}
