/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening images on demand. */
#include "images/images-open.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "images/images-close.h"
#include "images/images-dir.h"
#include "images/images-private.h"

/* The limit of open images of directories, unless more are in use: each may have its own
 * caches, and one file per layer. */
#define MAX_OPEN 64u

/* Indices of nodes have 28 bits. */
#define MAX_INDEX (1u << 28)

/* Explains a refused link: the sandbox permits links only to places where files may be
 * opened. */
static void
explain_denied_link(const Images *images, const ImageEntry *entry, GError **error)
{
    if (entry->is_link && images->settings.is_confined && error && *error &&
        strstr((*error)->message, g_strerror(EACCES))) {
        g_autofree char *text =
            g_strdup_printf("%s (a link may lead out of its directory only to where -o "
                            "backing=DIR allows)",
                            (*error)->message);

        g_free((*error)->message);
        (*error)->message = g_steal_pointer(&text);
    }
}

/* Opens the image of a busy entry, without the lock. NULL with @error set, also if the
 * name now stands for another file. */
static QimgImage *
entry_open_file(const Images *images, const ImageEntry *entry, const char *file_name,
                GError **error)
{
    g_autoptr(QimgImage) image =
        image_dir_open(entry->dir, file_name, images->settings.image_options, error);
    struct stat status;

    if (!image) {
        explain_denied_link(images, entry, error);
        return NULL;
    }
    qimg_image_get_stat(image, &status);
    if (entry->is_link ||
        (status.st_dev == entry->device && status.st_ino == entry->inode))
        return g_steal_pointer(&image);
    g_set_error(error, IMAGE_GONE, 0, "%s: the file has been replaced", file_name);
    return NULL;
}

static void
show_warnings(ImageEntry *entry, const QimgImage *image)
{
    if (entry->is_known)
        return;
    entry->is_known = true;
    for (const char *const *w = qimg_image_get_warnings(image); *w; w++)
        g_warning("%s", *w);
}

/* Forgets what is known of an image that this or another process may have written to. */
static void
forget_content(ImageEntry *entry)
{
    g_hash_table_remove_all(entry->fresh);
    partition_dir_forget(&entry->partitions);
}

/* Stores the open @image in a busy entry. The lock is held. */
static void
take_opened(Images *images, ImageEntry *entry, QimgImage *image, uint64_t stamp,
            uint64_t signature)
{
    bool is_changed = entry->stamp != stamp || entry->is_again;

    entry->image = image;
    entry->opening = ++images->n_openings;
    entry->state = IMAGE_OPEN;
    if (is_changed)
        forget_content(entry);
    entry->stamp = stamp;
    if (entry->n_indices > 0 && entry->signature != signature) {
        entry->first_index = (entry->first_index + entry->n_indices) % (MAX_INDEX / 2);
        entry->n_indices = 0;
    }
    g_clear_error(&entry->error);
    if (entry->dir)
        g_ptr_array_add(images->open, entry);
}

/* Logs once why a busy entry could not be opened. */
static void
log_error(const ImageEntry *entry, const char *file_name, const GError *reason)
{
    /* Only the thread that made the entry busy changes entry->error. */
    if (reason->domain != IMAGE_GONE &&
        (!entry->error || strcmp(entry->error->message, reason->message) != 0))
        g_warning("%s/%s: %s", entry->dir->path, file_name, reason->message);
}

/* Stores the reason why a busy entry could not be opened. The lock is held. */
static void
take_error(ImageEntry *entry, const GError *reason)
{
    entry->state = IMAGE_CLOSED;
    entry->has_facts = false;
    if (reason->domain == IMAGE_GONE)
        return;
    g_clear_error(&entry->error);
    entry->error = g_error_copy(reason);
}

/* Opens a closed image. The lock is held, and released meanwhile; the entry is pinned. */
static bool
open_entry(Images *images, ImageEntry *entry, GError **error)
{
    g_autoptr(GError) reason = NULL;
    g_autofree char *file_name = NULL;
    QimgImage *image;
    ImageEntry *idle;
    uint64_t stamp = 0, signature = 0;

    entry->state = IMAGE_BUSY;
    images->n_opening++;
    while (images->open->len + images->n_opening > MAX_OPEN &&
           (idle = images_find_idle(images)) != NULL)
        images_close_entry(images, idle);
    file_name = g_strdup(entry->file_name);
    qimg_mutex_unlock(&images->lock);
    image = entry_open_file(images, entry, file_name, &reason);
    if (image) {
        show_warnings(entry, image);
        stamp = qimg_image_get_stamp(image);
        signature = images_signature_of(image);
    } else { /* perhaps the file has gone */
        log_error(entry, file_name, reason);
        images_update(images, entry->dir, file_name, FILE_COMPLETE);
    }
    qimg_mutex_lock(&images->lock);
    images->n_opening--;
    entry->n_tries++;
    if (image)
        take_opened(images, entry, image, stamp, signature);
    else
        take_error(entry, reason);
    qimg_cond_broadcast(&images->changed);
    if (image)
        return true;
    if (entry->has_gone)
        g_set_error(error, IMAGE_GONE, 0, "%s: the file has gone", entry->file_name);
    else
        g_propagate_error(error, g_steal_pointer(&reason));
    return false;
}

/* ---- files that change below an image ---- */

/* Whether only the caller has the entry pinned. The lock is held. */
static bool
is_first_user(const ImageEntry *entry)
{
    return entry->n_pins == (entry->dir ? 1 : 2);
}

/* Reopens a busy image of the command line that is not in use, through its open
 * descriptors: its name may lead elsewhere, and the process is confined. Not possible for
 * writable images. */
static void
reopen_named(Images *images, ImageEntry *entry)
{
    g_autoptr(GError) reason = NULL;
    QimgImage *image = NULL;
    uint64_t old_signature = 0, signature = 0;

    qimg_mutex_unlock(&images->lock);
    if (!qimg_image_is_writable(entry->image))
        image = qimg_image_reopen(entry->image, images->settings.image_options, &reason);
    if (image) {
        old_signature = images_signature_of(entry->image);
        signature = images_signature_of(image);
        name_dir_cache_clear(&entry->snapshots);
        name_dir_cache_init(&entry->snapshots);
        name_dir_cache_clear(&entry->bitmaps);
        name_dir_cache_init(&entry->bitmaps);
        qimg_image_close(entry->image);
    }
    qimg_mutex_lock(&images->lock);
    if (reason &&
        (!entry->error || strcmp(entry->error->message, reason->message) != 0)) {
        g_warning("%s: cannot be opened again after it has changed: %s", entry->name,
                  reason->message);
        g_clear_error(&entry->error);
        entry->error = g_error_copy(reason);
    }
    if (image) {
        entry->is_again = true;
        entry->signature = old_signature;
        take_opened(images, entry, image, 0, signature);
    }
    entry->state = IMAGE_OPEN;
    qimg_cond_broadcast(&images->changed);
}

/* Checks whether a file of an open entry, pinned by the caller, was changed below the
 * mount (with @look_now, by looking now; else from earlier checks). If so, the first user
 * reopens it. True with an open entry; false with @error set. The lock is held, and
 * released meanwhile. */
static bool
meet_changes(Images *images, ImageEntry *entry, bool look_now, GError **error)
{
    const char *path;

    if (look_now) {
        qimg_mutex_unlock(&images->lock); /* the pin keeps it open */
        (void)qimg_image_find_changed(entry->image, TRUE);
        qimg_mutex_lock(&images->lock);
        while (entry->state == IMAGE_BUSY) /* for another first user */
            qimg_cond_wait(&images->changed, &images->lock);
    }
    if (entry->state == IMAGE_OPEN && !qimg_image_find_changed(entry->image, FALSE))
        return true;
    if (entry->state == IMAGE_OPEN && is_first_user(entry) && !entry->is_kept) {
        entry->state = IMAGE_BUSY;
        if (entry->dir)
            images_close_entry(images, entry);
        else
            reopen_named(images, entry);
    }
    if (entry->state == IMAGE_CLOSED)
        return open_entry(images, entry, error);
    path = qimg_image_find_changed(entry->image, FALSE);
    if (path && look_now)
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                    "%s: was changed by another program", path);
    return !path || !look_now;
}

/* Waits until a pinned entry is open. The lock is held, and released meanwhile. */
static bool
ensure_open(Images *images, ImageEntry *entry, bool look_now, GError **error)
{
    unsigned n_tries = entry->n_tries;

    while (entry->state == IMAGE_BUSY)
        qimg_cond_wait(&images->changed, &images->lock);
    if (entry->state == IMAGE_OPEN)
        return meet_changes(images, entry, look_now, error);
    if (entry->has_gone) {
        g_set_error(error, IMAGE_GONE, 0, "%s: the file has gone", entry->file_name);
        return false;
    }
    if (entry->n_tries != n_tries && entry->error) { /* another thread has just tried */
        g_propagate_error(error, g_error_copy(entry->error));
        return false;
    }
    return open_entry(images, entry, error);
}

static ImageEntry *
pin(Images *images, unsigned number, bool look_now, GError **error)
{
    ImageEntry *entry;

    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    if (!entry) {
        g_set_error(error, IMAGE_GONE, 0, "the image has gone");
    } else {
        entry->n_pins++;
        if (!ensure_open(images, entry, look_now, error)) {
            images_unpin_locked(images, entry);
            entry = NULL;
        }
    }
    qimg_mutex_unlock(&images->lock);
    return entry;
}

ImageEntry *
images_pin(Images *images, unsigned number, GError **error)
{
    return pin(images, number, false, error);
}

ImageEntry *
images_pin_for_open(Images *images, unsigned number, GError **error)
{
    return pin(images, number, true, error);
}

/* ---- facts about closed images ---- */

static bool
is_unchanged(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
           a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* As images_get_facts, from the remembered facts of a closed image whose file is
 * unchanged. */
static bool
recall_facts(Images *images, unsigned number, ImageFacts *out)
{
    g_autofree char *file_name = NULL;
    struct stat closed, now;
    ImageEntry *entry;
    int dir_fd = -1;

    qimg_mutex_lock(&images->lock);
    entry = images_find_entry(images, number);
    if (entry && entry->state == IMAGE_CLOSED && entry->has_facts) {
        *out = entry->facts;
        closed = entry->closed;
        dir_fd = entry->dir->fd;
        file_name = g_strdup(entry->file_name);
    }
    qimg_mutex_unlock(&images->lock);
    return file_name && fstatat(dir_fd, file_name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
           is_unchanged(&closed, &now);
}

bool
images_get_facts(Images *images, unsigned number, ImageFacts *out, GError **error)
{
    g_autoptr(ImageEntry) entry = NULL;

    if (recall_facts(images, number, out))
        return true;
    entry = images_pin(images, number, error);
    if (entry)
        images_fill_facts(entry->image, out);
    return entry != NULL;
}

int
images_errno(const GError *error)
{
    int err = qimg_error_to_errno(error);

    if (error->domain == IMAGE_GONE)
        return ESTALE;
    switch (err) {
    case EACCES:
    case EBUSY:
    case ENOKEY:
    case ENOMEM:
        return err;
    default:
        return EIO;
    }
}
