/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pinned images: pinning without opening, and the operations of users. */
#include "images/images-pin.h"

#include "images/images-close.h"
#include "images/images-private.h"

void
images_unpin_locked(Images *images, ImageEntry *entry)
{
    entry->n_pins--;
    entry->used_usecs = g_get_monotonic_time();
    if (entry->n_pins > 0)
        return;
    if (entry->has_gone) {
        images_drop_if_unused(images, entry);
    } else if (images->sleeps) {
        images->sleeps = false;
        images_wake(images);
    }
}

ImageEntry *
images_pin_open(Images *images, unsigned number)
{
    ImageEntry *entry;

    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    if (entry && entry->state == IMAGE_OPEN)
        entry->n_pins++;
    else
        entry = NULL;
    qimg_mutex_unlock(&images->lock);
    return entry;
}

void
image_entry_unpin(ImageEntry *entry)
{
    Images *images;

    if (!entry)
        return;
    images = entry->images;
    qimg_mutex_lock(&images->lock);
    images_unpin_locked(images, entry);
    qimg_mutex_unlock(&images->lock);
}

bool
images_is_writable(Images *images, unsigned number)
{
    g_autoptr(ImageEntry) entry = images_pin_open(images, number);

    return entry ? qimg_image_is_writable(entry->image) : images->settings.is_writable;
}

SnapshotDir *
image_entry_get_snapshots(ImageEntry *entry)
{
    SnapshotDir *dir = snapshot_dir_get(&entry->snapshots, entry->image);
    unsigned n = qimg_snapshots_get_n(dir->list);

    if (n > 0) {
        unsigned last = qimg_snapshots_get(dir->list, n - 1)->serial;

        qimg_mutex_lock(&entry->images->lock);
        entry->n_indices = MAX(entry->n_indices, last + 1);
        qimg_mutex_unlock(&entry->images->lock);
    }
    return dir;
}

void
image_entry_expect_writes(ImageEntry *entry)
{
    if (!entry->images->settings.is_cow) /* otherwise closing would lose the overlay */
        return;
    qimg_mutex_lock(&entry->images->lock);
    entry->is_kept = true;
    qimg_mutex_unlock(&entry->images->lock);
}

bool
image_entry_keeps_pages(ImageEntry *entry, uint64_t inode)
{
    bool keeps;

    qimg_mutex_lock(&entry->images->lock);
    keeps =
        (!entry->dir && !entry->is_again) || g_hash_table_contains(entry->fresh, &inode);
    qimg_mutex_unlock(&entry->images->lock);
    return keeps;
}

void
image_entry_has_fresh_pages(ImageEntry *entry, uint64_t inode)
{
    qimg_mutex_lock(&entry->images->lock);
    if ((entry->dir || entry->is_again) && !g_hash_table_contains(entry->fresh, &inode))
        g_hash_table_add(entry->fresh, g_memdup2(&inode, sizeof inode));
    qimg_mutex_unlock(&entry->images->lock);
}
