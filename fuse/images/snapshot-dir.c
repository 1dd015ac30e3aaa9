/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images/snapshot-dir.h"

#include "images/names.h"

void
snapshot_dir_cache_init(SnapshotDirCache *cache)
{
    qimg_mutex_init(&cache->lock, QIMG_RANK_SNAPSHOTS);
    cache->present = NULL;
}

void
snapshot_dir_cache_clear(SnapshotDirCache *cache)
{
    if (cache->present)
        snapshot_dir_unref(cache->present);
    qimg_mutex_clear(&cache->lock);
}

static void
clear(gpointer data)
{
    SnapshotDir *dir = data;

    g_hash_table_unref(dir->by_name);
    g_ptr_array_unref(dir->names);
    qimg_snapshots_unref(dir->list);
}

void
snapshot_dir_unref(SnapshotDir *dir)
{
    g_atomic_rc_box_release_full(dir, clear);
}

/* Takes @list over. */
static SnapshotDir *
make(QimgSnapshots *list)
{
    SnapshotDir *dir = g_atomic_rc_box_new0(SnapshotDir);

    dir->list = list;
    dir->names = names_of_snapshots(list);
    dir->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < dir->names->len; i++)
        g_hash_table_insert(dir->by_name, dir->names->pdata[i], GUINT_TO_POINTER(i));
    return dir;
}

SnapshotDir *
snapshot_dir_get(SnapshotDirCache *cache, const QimgImage *image)
{
    QimgSnapshots *list = qimg_image_get_snapshots(image);
    SnapshotDir *dir;

    qimg_mutex_lock(&cache->lock);
    if (cache->present && cache->present->list == list) {
        qimg_snapshots_unref(list);
    } else {
        if (cache->present)
            snapshot_dir_unref(cache->present);
        cache->present = make(list);
    }
    dir = g_atomic_rc_box_acquire(cache->present);
    qimg_mutex_unlock(&cache->lock);
    return dir;
}

unsigned
snapshot_dir_lower_bound(const SnapshotDir *dir, uint32_t serial)
{
    unsigned low = 0, high = dir->names->len;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        if (qimg_snapshots_get(dir->list, middle)->serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const QimgSnapshot *
snapshot_dir_find(const SnapshotDir *dir, uint32_t serial, const char **name_out)
{
    unsigned place = snapshot_dir_lower_bound(dir, serial);
    const QimgSnapshot *snapshot = qimg_snapshots_get(dir->list, place);

    if (!snapshot || snapshot->serial != serial)
        return NULL;
    if (name_out)
        *name_out = dir->names->pdata[place];
    return snapshot;
}

const QimgSnapshot *
snapshot_dir_find_name(const SnapshotDir *dir, const char *name)
{
    gpointer place;

    if (!g_hash_table_lookup_extended(dir->by_name, name, NULL, &place))
        return NULL;
    return qimg_snapshots_get(dir->list, GPOINTER_TO_UINT(place));
}
