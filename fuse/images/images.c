/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The registry, and plain facts about its images. */
#include "images/images.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "images/images-private.h"
#include "images/names.h"

static void
free_entry(gpointer data)
{
    ImageEntry *entry = data;

    qimg_image_close(entry->image);
    name_dir_cache_clear(&entry->snapshots);
    name_dir_cache_clear(&entry->bitmaps);
    partition_dir_cache_clear(&entry->partitions);
    g_hash_table_unref(entry->fresh);
    g_free(entry->name);
    g_free(entry->file_name);
    g_clear_error(&entry->error);
    g_free(entry);
}

static void
free_dir(gpointer data)
{
    image_dir_free(data);
}

Images *
images_new(ImagesSettings settings)
{
    Images *images = g_new0(Images, 1);

    images->settings = settings;
    qimg_mutex_init(&images->lock, QIMG_RANK_IMAGES);
    qimg_mutex_init(&images->scan_lock, QIMG_RANK_SCAN);
    qimg_cond_init(&images->changed);
    images->dirs = g_ptr_array_new_with_free_func(free_dir);
    images->entries = g_ptr_array_new_with_free_func(free_entry);
    images->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    images->open = g_ptr_array_new();
    images->gone = g_ptr_array_new_with_free_func(g_free);
    images->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return images;
}

void
images_free(Images *images)
{
    if (!images)
        return;
    g_hash_table_unref(images->by_name);
    g_ptr_array_unref(images->open);
    g_ptr_array_unref(images->entries);
    g_ptr_array_unref(images->gone);
    g_ptr_array_unref(images->dirs);
    g_free(images->flush_error);
    if (images->wake_fd >= 0)
        close(images->wake_fd);
    qimg_cond_clear(&images->changed);
    qimg_mutex_clear(&images->scan_lock);
    qimg_mutex_clear(&images->lock);
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

ImageEntry *
images_find_entry(const Images *images, unsigned number)
{
    unsigned place = lower_bound(images, number);
    ImageEntry *entry =
        place < images->entries->len ? images->entries->pdata[place] : NULL;

    return entry && entry->number == number ? entry : NULL;
}

ImageEntry *
images_add_entry(Images *images, char *name)
{
    ImageEntry *entry;

    if (images->entries->len == MAX_IMAGES) {
        g_free(name);
        return NULL;
    }
    while (images->next_number == MAX_IMAGES ||
           images_find_entry(images, images->next_number)) {
        if (images->next_number++ < MAX_IMAGES)
            continue;
        images->next_number = 0;
        images->generation++;
    }
    entry = g_new0(ImageEntry, 1);
    entry->images = images;
    entry->name = name;
    entry->number = images->next_number++;
    entry->generation = images->generation;
    entry->fresh = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    name_dir_cache_init(&entry->snapshots);
    name_dir_cache_init(&entry->bitmaps);
    partition_dir_cache_init(&entry->partitions);
    g_ptr_array_insert(images->entries, (int)lower_bound(images, entry->number), entry);
    g_hash_table_insert(images->by_name, entry->name, entry);
    return entry;
}

void
images_remove_entry(Images *images, ImageEntry *entry)
{
    g_ptr_array_remove_index(images->entries, lower_bound(images, entry->number));
}

bool
images_add_open(Images *images, QimgImage *image, const char *path, GError **error)
{
    g_autofree char *name = names_of_image(path);
    ImageEntry *entry = NULL;
    struct stat status;

    qimg_image_get_stat(image, &status);
    qimg_mutex_lock(&images->lock);
    if (names_is_reserved(name))
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "the name %s is taken (mount it by a link of another name)", name);
    else if (g_hash_table_contains(images->by_name, name))
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "two images would be shown as %s.raw (mount one of them "
                    "elsewhere, or by a link of another name)",
                    name);
    else
        entry = images_add_entry(images, g_steal_pointer(&name));
    if (entry) {
        entry->image = image;
        entry->opening = ++images->n_openings;
        entry->state = IMAGE_OPEN;
        entry->n_pins = 1; /* forever */
        entry->device = status.st_dev;
        entry->inode = status.st_ino;
    }
    qimg_mutex_unlock(&images->lock);
    return entry != NULL;
}

unsigned
images_get_n(Images *images)
{
    unsigned n;

    qimg_mutex_lock(&images->lock);
    n = g_hash_table_size(images->by_name);
    qimg_mutex_unlock(&images->lock);
    return n;
}

static bool
is_there(const ImageEntry *entry)
{
    return !entry->has_gone;
}

static bool
is_open(const ImageEntry *entry)
{
    return !entry->has_gone && entry->state == IMAGE_OPEN;
}

static bool
is_broken(const ImageEntry *entry)
{
    return !entry->has_gone &&
           (entry->error ||
            (entry->state == IMAGE_OPEN && qimg_image_find_changed(entry->image, FALSE)));
}

static bool
find_next(Images *images, unsigned *number, bool (*is_wanted)(const ImageEntry *))
{
    bool is_found = false;

    qimg_mutex_lock(&images->lock);
    for (unsigned place = lower_bound(images, *number);
         place < images->entries->len && !is_found; place++) {
        const ImageEntry *entry = images->entries->pdata[place];

        is_found = is_wanted(entry);
        *number = entry->number;
    }
    qimg_mutex_unlock(&images->lock);
    return is_found;
}

bool
images_next(Images *images, unsigned *number)
{
    return find_next(images, number, is_there);
}

bool
images_next_open(Images *images, unsigned *number)
{
    return find_next(images, number, is_open);
}

bool
images_next_error(Images *images, unsigned *number)
{
    return find_next(images, number, is_broken);
}

bool
images_find(Images *images, const char *name, unsigned *number_out)
{
    const ImageEntry *entry;

    qimg_mutex_lock(&images->lock);
    entry = g_hash_table_lookup(images->by_name, name);
    if (entry)
        *number_out = entry->number;
    qimg_mutex_unlock(&images->lock);
    return entry != NULL;
}

bool
images_has(Images *images, unsigned number)
{
    bool has;

    qimg_mutex_lock(&images->lock);
    has = images_find_entry(images, number) != NULL;
    qimg_mutex_unlock(&images->lock);
    return has;
}

char *
images_get_name(Images *images, unsigned number)
{
    const ImageEntry *entry;
    char *name;

    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    name = entry && !entry->has_gone ? g_strdup(entry->name) : NULL;
    qimg_mutex_unlock(&images->lock);
    return name;
}

uint64_t
images_get_generation(Images *images, unsigned number)
{
    const ImageEntry *entry;
    uint64_t generation;

    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    generation = entry ? entry->generation : 0;
    qimg_mutex_unlock(&images->lock);
    return generation;
}

int
images_get_wake_fd(const Images *images)
{
    return images->wake_fd;
}

void
images_wake(const Images *images)
{
    const uint64_t one = 1;

    /* A full counter wakes as well. */
    if (write(images->wake_fd, &one, sizeof one) < 0)
        return;
}

bool
images_can_go(Images *images, unsigned number)
{
    const ImageEntry *entry;
    bool can_go;

    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    can_go = !entry || entry->dir;
    qimg_mutex_unlock(&images->lock);
    return can_go;
}

uint64_t
images_get_closed_bytes(Images *images, unsigned number)
{
    const ImageEntry *entry;
    uint64_t bytes = 0;

    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    if (entry && entry->has_facts && !entry->facts.is_writable)
        bytes = (entry->facts.size_bytes + 4095) / 4096 * 4096;
    else if (entry)
        bytes = entry->host_bytes;
    qimg_mutex_unlock(&images->lock);
    return bytes;
}

bool
images_knows_partitions(Images *images, unsigned number)
{
    ImageEntry *entry;
    bool is_known;

    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    is_known = entry && partition_dir_is_known(&entry->partitions);
    qimg_mutex_unlock(&images->lock);
    return is_known;
}
