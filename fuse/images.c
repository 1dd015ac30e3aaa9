/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images.h"

#include <errno.h>
#include <string.h>

#include "names.h"

struct Images {
    const Options *options; /* const */
    pthread_mutex_t lock;
    /* Guarded by lock: */
    GPtrArray *entries;  /* ImageEntry *, owned, by number */
    GHashTable *by_name; /* their names, to entries */
    unsigned next_number;
};

static void
free_entry(gpointer data)
{
    ImageEntry *entry = data;

    qimg_image_close(entry->image);
    snapshot_dir_cache_clear(&entry->snapshots);
    partition_dir_cache_clear(&entry->partitions);
    g_free(entry->name);
    g_free(entry);
}

Images *
images_new(const Options *options)
{
    Images *images = g_new0(Images, 1);

    images->options = options;
    pthread_mutex_init(&images->lock, NULL);
    images->entries = g_ptr_array_new_with_free_func(free_entry);
    images->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    return images;
}

void
images_free(Images *images)
{
    if (!images)
        return;
    g_hash_table_unref(images->by_name);
    g_ptr_array_unref(images->entries);
    pthread_mutex_destroy(&images->lock);
    g_free(images);
}

/* The place of the first entry with @number or a higher one. The lock is held. */
static unsigned
lower_bound(const Images *images, unsigned number)
{
    unsigned low = 0, high = images->entries->len;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        const ImageEntry *entry = images->entries->pdata[middle];

        if (entry->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The entry of that number, or NULL. The lock is held. */
static ImageEntry *
find_entry(const Images *images, unsigned number)
{
    unsigned place = lower_bound(images, number);
    ImageEntry *entry =
        place < images->entries->len ? images->entries->pdata[place] : NULL;

    return entry && entry->number == number ? entry : NULL;
}

/* A new entry shown as @name (taken over). The lock is held. */
static ImageEntry *
add_entry(Images *images, char *name)
{
    ImageEntry *entry = g_new0(ImageEntry, 1);

    entry->images = images;
    entry->name = name;
    entry->number = images->next_number++;
    snapshot_dir_cache_init(&entry->snapshots);
    partition_dir_cache_init(&entry->partitions);
    g_ptr_array_insert(images->entries, (int)lower_bound(images, entry->number), entry);
    g_hash_table_insert(images->by_name, entry->name, entry);
    return entry;
}

bool
images_add_open(Images *images, QimgImage *image, const char *path, GError **error)
{
    g_autofree char *name = names_of_image(path);
    bool is_added = false;

    pthread_mutex_lock(&images->lock);
    if (names_is_reserved(name)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "the name %s is taken (mount it by a link of another name)", name);
    } else if (g_hash_table_contains(images->by_name, name)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "two images would be shown as %s.raw (mount one of them "
                    "elsewhere, or by a link of another name)",
                    name);
    } else if (images->next_number == MAX_IMAGES) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "more than %u images (use several mounts)", MAX_IMAGES);
    } else {
        ImageEntry *entry = add_entry(images, g_steal_pointer(&name));

        entry->image = image;
        is_added = true;
    }
    pthread_mutex_unlock(&images->lock);
    return is_added;
}

unsigned
images_get_n(Images *images)
{
    unsigned n;

    pthread_mutex_lock(&images->lock);
    n = images->entries->len;
    pthread_mutex_unlock(&images->lock);
    return n;
}

bool
images_next(Images *images, unsigned *number)
{
    unsigned place;
    bool is_found;

    pthread_mutex_lock(&images->lock);
    place = lower_bound(images, *number);
    is_found = place < images->entries->len;
    if (is_found)
        *number = ((ImageEntry *)images->entries->pdata[place])->number;
    pthread_mutex_unlock(&images->lock);
    return is_found;
}

bool
images_find(Images *images, const char *name, unsigned *number_out)
{
    const ImageEntry *entry;

    pthread_mutex_lock(&images->lock);
    entry = g_hash_table_lookup(images->by_name, name);
    if (entry)
        *number_out = entry->number;
    pthread_mutex_unlock(&images->lock);
    return entry != NULL;
}

bool
images_has(Images *images, unsigned number)
{
    bool has;

    pthread_mutex_lock(&images->lock);
    has = find_entry(images, number) != NULL;
    pthread_mutex_unlock(&images->lock);
    return has;
}

char *
images_get_name(Images *images, unsigned number)
{
    const ImageEntry *entry;
    char *name;

    pthread_mutex_lock(&images->lock);
    entry = find_entry(images, number);
    name = entry ? g_strdup(entry->name) : NULL;
    pthread_mutex_unlock(&images->lock);
    return name;
}

uint64_t
images_get_generation(Images *images, unsigned number)
{
    const ImageEntry *entry;
    uint64_t generation;

    pthread_mutex_lock(&images->lock);
    entry = find_entry(images, number);
    generation = entry ? entry->generation : 0;
    pthread_mutex_unlock(&images->lock);
    return generation;
}

ImageEntry *
images_pin(Images *images, unsigned number, GError **error)
{
    ImageEntry *entry = images_pin_open(images, number);

    if (!entry)
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND, "the image has gone");
    return entry;
}

ImageEntry *
images_pin_open(Images *images, unsigned number)
{
    ImageEntry *entry;

    pthread_mutex_lock(&images->lock);
    entry = find_entry(images, number);
    if (entry)
        entry->n_pins++;
    pthread_mutex_unlock(&images->lock);
    return entry;
}

void
image_entry_unpin(ImageEntry *entry)
{
    if (!entry)
        return;
    pthread_mutex_lock(&entry->images->lock);
    entry->n_pins--;
    pthread_mutex_unlock(&entry->images->lock);
}

SnapshotDir *
image_entry_get_snapshots(ImageEntry *entry)
{
    return snapshot_dir_get(&entry->snapshots, entry->image);
}

bool
image_entry_flush(ImageEntry *entry, GError **error)
{
    int err = qimg_image_is_writable(entry->image) ? qimg_image_flush(entry->image) : 0;

    if (err)
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                    "%s: what was written last may be lost: %s (check the image and "
                    "its file system)",
                    qimg_image_get_layer_path(entry->image, 0), g_strerror(-err));
    return err == 0;
}

void
images_get_times(Images *images, struct stat *out)
{
    g_autoptr(ImageEntry) first = images_pin_open(images, 0);

    *out = (struct stat){0};
    if (first)
        qimg_image_get_stat(first->image, out);
}

int
images_errno(const GError *error)
{
    int err = qimg_error_to_errno(error);

    switch (err) {
    case ENOENT:
    case EACCES:
    case EBUSY:
    case ENOKEY:
    case ENOMEM:
        return err;
    default:
        return EIO;
    }
}
