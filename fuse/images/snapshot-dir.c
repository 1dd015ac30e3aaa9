/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images/snapshot-dir.h"

#include "images/names.h"

static void
clear_snapshot_dir(NameDir *dir)
{
    qimg_snapshots_unref(((SnapshotDir *)dir)->list);
}

void
snapshot_dir_unref(SnapshotDir *dir)
{
    name_dir_unref(&dir->files);
}

/* Takes @list over. */
static SnapshotDir *
make_snapshot_dir(QimgSnapshots *list)
{
    SnapshotDir *dir = name_dir_new(sizeof *dir, clear_snapshot_dir);
    g_autoptr(GPtrArray) names = names_of_snapshots(list);

    dir->list = list;
    g_ptr_array_set_free_func(names, NULL);
    for (guint i = 0; i < names->len; i++)
        name_dir_add(&dir->files, names->pdata[i]);
    return dir;
}

SnapshotDir *
snapshot_dir_get(NameDirCache *cache, const QimgImage *image)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(image);
    SnapshotDir *dir = name_dir_cache_get(cache);

    if (dir && dir->list == list)
        return dir;
    if (dir)
        snapshot_dir_unref(dir);
    dir = make_snapshot_dir(g_steal_pointer(&list));
    name_dir_cache_put(cache, &dir->files);
    return dir;
}

unsigned
snapshot_dir_lower_bound(const SnapshotDir *dir, uint32_t serial)
{
    unsigned low = 0, high = dir->files.names->len;

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
        *name_out = dir->files.names->pdata[place];
    return snapshot;
}

const QimgSnapshot *
snapshot_dir_find_name(const SnapshotDir *dir, const char *name)
{
    unsigned place;

    return name_dir_find(&dir->files, name, &place) ? qimg_snapshots_get(dir->list, place)
                                                    : NULL;
}
