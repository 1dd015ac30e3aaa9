/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories of images: tracks the images coming and going in them. */
#include "images/images-dir.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#include "images/images-close.h"
#include "images/images-pin.h"
#include "images/images-private.h"
#include "images/names.h"

/* Successive changes of a directory within a clock tick leave the same time. */
#define CLOCK_DOUBT_NS 100000000

/* Whether @dir was added already, perhaps by another path: inotify would report its
 * changes only once. */
static bool
has_directory(const Images *images, const ImageDir *dir)
{
    struct stat status, other;

    if (fstat(dir->fd, &status) < 0)
        return false;
    for (guint i = 0; i < images->dirs->len; i++)
        if (fstat(((ImageDir *)images->dirs->pdata[i])->fd, &other) == 0 &&
            status.st_dev == other.st_dev && status.st_ino == other.st_ino)
            return true;
    return false;
}

bool
images_add_directory(Images *images, const char *path, GError **error)
{
    g_autoptr(ImageDir) dir = NULL;

    if (images->settings.cow_file) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "is a directory, and cow=%s serves one image (give cow alone)",
                    images->settings.cow_file);
        return false;
    }
    dir = image_dir_new(path, error);
    if (!dir)
        return false;
    if (!has_directory(images, dir))
        g_ptr_array_add(images->dirs, g_steal_pointer(&dir));
    return true;
}

ImageDir *
images_get_directory(const Images *images, unsigned place)
{
    return place < images->dirs->len ? images->dirs->pdata[place] : NULL;
}

/* Whether an image can be shown as @name. The lock is held. */
static bool
is_name_free(const Images *images, const char *name)
{
    return !names_is_reserved(name) && !g_hash_table_contains(images->by_name, name);
}

/* The name for the image in file @file_name: the whole file name if the usual name is
 * taken. Free with g_free. The lock is held. */
static char *
choose_name(const Images *images, const char *file_name)
{
    char *name = names_of_image(file_name);

    for (unsigned i = 1; !is_name_free(images, name); i++) {
        g_free(name);
        name = i == 1 ? g_strdup(file_name) : g_strdup_printf("%s@%u", file_name, i);
    }
    return name;
}

/* The creation time of a link: an open file keeps its inode number, but a link may be
 * replaced by another with the same number. Renaming changes only the ctime. */
static struct timespec
link_time_of(const struct stat *status)
{
    return S_ISLNK(status->st_mode) ? status->st_mtim : (struct timespec){0};
}

static bool
is_entry_of_file(const ImageEntry *entry, const ImageDir *dir, const struct stat *status)
{
    struct timespec time = link_time_of(status);

    return entry->dir == dir && entry->device == status->st_dev &&
           entry->inode == status->st_ino && entry->link_time.tv_sec == time.tv_sec &&
           entry->link_time.tv_nsec == time.tv_nsec;
}

/* The entry of a file that has left @dir and is still used, or NULL. The lock is held. */
static ImageEntry *
find_gone(const Images *images, const ImageDir *dir, const struct stat *status)
{
    for (guint i = 0; images->n_gone > 0 && i < images->entries->len; i++) {
        ImageEntry *entry = images->entries->pdata[i];

        if (entry->has_gone && is_entry_of_file(entry, dir, status))
            return entry;
    }
    return NULL;
}

/* The lock is held. */
static void
scan_add_file(Images *images, ImageDir *dir, const char *file_name,
              const struct stat *status)
{
    ImageEntry *entry = find_gone(images, dir, status);
    g_autofree char *name = choose_name(images, file_name);

    if (entry) { /* a renamed file */
        g_free(entry->name);
        g_free(entry->file_name);
        entry->name = g_steal_pointer(&name);
        entry->has_gone = false;
        images->n_gone--;
        g_hash_table_insert(images->by_name, entry->name, entry);
    } else {
        entry = images_add_entry(images, g_steal_pointer(&name));
    }
    if (!entry) {
        g_warning("%s: more than %u images (use several mounts)", dir->path, MAX_IMAGES);
        return;
    }
    entry->dir = dir;
    entry->file_name = g_strdup(file_name);
    entry->device = status->st_dev;
    entry->inode = status->st_ino;
    entry->is_link = S_ISLNK(status->st_mode);
    entry->link_time = link_time_of(status);
    entry->host_bytes = (uint64_t)status->st_blocks * 512;
    g_hash_table_insert(dir->files, entry->file_name, entry);
}

/* Takes the name from an entry, which stays while used. The lock is held. */
static void
retire(Images *images, ImageEntry *entry)
{
    g_hash_table_remove(images->by_name, entry->name);
    g_hash_table_remove(entry->dir->files, entry->file_name);
    g_ptr_array_add(images->gone, g_strdup(entry->name));
    entry->has_gone = true;
    images->n_gone++;
    images_wake(images);
    images_drop_if_unused(images, entry);
}

/* Whether the file was named on the command line; those files have the lowest numbers.
 * The lock is held. */
static bool
is_named(const Images *images, const struct stat *status)
{
    for (guint i = 0; i < images->entries->len; i++) {
        const ImageEntry *entry = images->entries->pdata[i];

        if (entry->dir)
            break;
        if (is_entry_of_file(entry, NULL, status))
            return true;
    }
    return false;
}

/* Checks whether an image in use has changed: its users then get errors. */
static void
look_at_used(Images *images, unsigned number)
{
    g_autoptr(ImageEntry) entry = images_pin_open(images, number);

    if (entry)
        (void)qimg_image_find_changed(entry->image, TRUE);
}

/* As images_update. The scan lock is held. */
static void
update(Images *images, ImageDir *dir, const char *name, FileEvent event)
{
    struct stat status;
    bool is_image = image_dir_has(dir, name, &status);
    char *other =
        is_image || event == FILE_CREATED ? NULL : image_dir_find_other(dir, name);
    ImageEntry *entry;
    bool is_same;
    int used = -1;

    /* A complete file that gets a new name has no closing writer to wait for. */
    if (is_image && event == FILE_CREATED &&
        (S_ISLNK(status.st_mode) || status.st_nlink > 1))
        event = FILE_COMPLETE;
    qimg_mutex_lock(&images->lock);
    image_dir_set_other(dir, name, other);
    entry = g_hash_table_lookup(dir->files, name);
    is_same = entry && is_image && is_entry_of_file(entry, dir, &status);
    if (entry && !is_same)
        retire(images, entry);
    /* Another program has written to it: nothing cached is worth keeping. */
    else if (is_same && entry->state == IMAGE_OPEN && entry->n_pins == 0 &&
             !images->settings.is_writable)
        images_close_entry(images, entry);
    else if (is_same && entry->state == IMAGE_OPEN)
        used = entry->number;
    if (is_image && !is_same && event == FILE_COMPLETE && !is_named(images, &status))
        scan_add_file(images, dir, name, &status);
    qimg_mutex_unlock(&images->lock);
    if (used >= 0)
        look_at_used(images, (unsigned)used);
}

void
images_update(Images *images, ImageDir *dir, const char *name, FileEvent event)
{
    qimg_mutex_lock(&images->scan_lock);
    update(images, dir, name, event);
    qimg_mutex_unlock(&images->scan_lock);
}

/* The names of the files of @dir that have entries, or hold other disks. */
static GPtrArray *
known_files(Images *images, const ImageDir *dir)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer name;

    qimg_mutex_lock(&images->lock);
    g_hash_table_iter_init(&iter, dir->files);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_ptr_array_add(names, g_strdup(name));
    for (guint i = 0; i < dir->others->len; i++)
        g_ptr_array_add(names, g_strdup(((OtherFile *)dir->others->pdata[i])->name));
    qimg_mutex_unlock(&images->lock);
    return names;
}

/* Whether a change at this moment could leave the same time. */
static bool
is_recent(const struct timespec *time)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (now.tv_sec - time->tv_sec) * INT64_C(1000000000) + now.tv_nsec -
               time->tv_nsec <
           CLOCK_DOUBT_NS;
}

/* As images_scan. The scan lock is held. */
static bool
scan_directory(Images *images, ImageDir *dir)
{
    g_autoptr(GPtrArray) known = known_files(images, dir);
    g_autoptr(GPtrArray) names = NULL;
    struct stat status;

    /* Read the time first: the next scan finds changes from here on. */
    if (fstat(dir->fd, &status) < 0)
        return false;
    names = image_dir_list(dir);
    if (!names)
        return false;
    dir->mtime = is_recent(&status.st_mtim) ? (struct timespec){0} : status.st_mtim;
    for (guint i = 0; i < known->len; i++)
        update(images, dir, known->pdata[i], FILE_LEFT);
    for (guint i = 0; i < names->len; i++)
        update(images, dir, names->pdata[i], FILE_COMPLETE);
    return true;
}

bool
images_scan(Images *images, ImageDir *dir)
{
    bool is_read;

    qimg_mutex_lock(&images->scan_lock);
    is_read = scan_directory(images, dir);
    qimg_mutex_unlock(&images->scan_lock);
    return is_read;
}

/* Scans an unwatched directory; logs only the first of successive failures, since every
 * look into the mount retries. The scan lock is held. */
static void
scan_again(Images *images, ImageDir *dir)
{
    bool is_read = scan_directory(images, dir);

    if (!is_read && !dir->has_failed)
        g_warning("%s: cannot read the directory: %s (the listing may be out of date)",
                  dir->path, g_strerror(errno));
    dir->has_failed = !is_read;
}

void
images_refresh(Images *images)
{
    for (guint i = 0; i < images->dirs->len; i++) {
        ImageDir *dir = images->dirs->pdata[i];
        struct stat status;

        if (dir->is_watched)
            continue;
        qimg_mutex_lock(&images->scan_lock);
        if (fstat(dir->fd, &status) == 0 &&
            (status.st_mtim.tv_sec != dir->mtime.tv_sec ||
             status.st_mtim.tv_nsec != dir->mtime.tv_nsec))
            scan_again(images, dir);
        qimg_mutex_unlock(&images->scan_lock);
    }
}

GPtrArray *
images_take_gone(Images *images)
{
    GPtrArray *gone;

    qimg_mutex_lock(&images->lock);
    gone = images->gone;
    images->gone = g_ptr_array_new_with_free_func(g_free);
    qimg_mutex_unlock(&images->lock);
    return gone;
}

void
images_avoid_device(Images *images, dev_t device)
{
    if (images->dirs->len > 0)
        qimg_options_avoid_device(images->settings.image_options, device);
}

bool
images_get_other(Images *images, unsigned place, char **file_out, char **reason_out)
{
    bool is_found = false;

    qimg_mutex_lock(&images->lock);
    for (guint i = 0; i < images->dirs->len && !is_found; i++) {
        const ImageDir *dir = images->dirs->pdata[i];

        if (place >= dir->others->len) {
            place -= dir->others->len;
        } else {
            const OtherFile *other = dir->others->pdata[place];

            *file_out = image_dir_path_of(dir, other->name);
            *reason_out = g_strdup(other->reason);
            is_found = true;
        }
    }
    qimg_mutex_unlock(&images->lock);
    return is_found;
}

bool
images_get_error(Images *images, unsigned number, char **file_out, char **reason_out)
{
    g_autoptr(ImageEntry) open = images_pin_open(images, number);
    const char *changed = open ? qimg_image_find_changed(open->image, FALSE) : NULL;
    const ImageEntry *entry;
    bool has_error = changed != NULL;

    if (changed) {
        *file_out = g_strdup(changed);
        *reason_out = g_strdup("was changed by another program while it was mounted");
        return true;
    }
    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    if (entry && entry->error && entry->dir && !entry->has_gone) {
        *file_out = image_dir_path_of(entry->dir, entry->file_name);
        *reason_out = g_strdup(entry->error->message);
        has_error = true;
    }
    qimg_mutex_unlock(&images->lock);
    return has_error;
}

uint64_t
images_get_free_bytes(const Images *images)
{
    uint64_t least = UINT64_MAX;

    for (guint i = 0; i < images->dirs->len; i++) {
        const ImageDir *dir = images->dirs->pdata[i];
        struct statvfs status;

        if (fstatvfs(dir->fd, &status) == 0)
            least = MIN(least, (uint64_t)status.f_bavail * status.f_frsize);
    }
    return least;
}

void
images_get_times(Images *images, struct stat *out)
{
    g_autoptr(ImageEntry) first = images_pin_open(images, 0);

    *out = (struct stat){0};
    if (first && !first->dir)
        qimg_image_get_stat(first->image, out);
    else if (images->dirs->len > 0)
        (void)fstat(((ImageDir *)images->dirs->pdata[0])->fd, out);
}
