/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Flushing and closing images. */
#include "images/images-close.h"

#include <fcntl.h>
#include <string.h>

#include "images/images-private.h"

bool
image_entry_flush(ImageEntry *entry, GError **error)
{
    int err = qimg_image_is_writable(entry->image) ? qimg_image_flush(entry->image) : 0;

    if (err)
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                    "%s: the last writes may be lost: %s (check the image and "
                    "its file system)",
                    qimg_image_get_layer_path(entry->image, 0), g_strerror(-err));
    return err == 0;
}

bool
images_flush(Images *images, GError **error)
{
    bool is_good = images->flush_error == NULL;

    if (!is_good)
        g_set_error_literal(error, QIMG_ERROR, QIMG_ERROR_FAILED, images->flush_error);
    for (guint i = 0; i < images->entries->len; i++) {
        ImageEntry *entry = images->entries->pdata[i];

        if (entry->image && !image_entry_flush(entry, is_good ? error : NULL))
            is_good = false;
    }
    return is_good;
}

void
images_fill_facts(const QimgImage *image, ImageFacts *out)
{
    out->size_bytes = qimg_image_get_size_bytes(image);
    out->cluster_bytes = qimg_image_get_cluster_bytes(image);
    out->is_writable = qimg_image_is_writable(image);
    out->can_change_snapshots = qimg_image_can_change_snapshots(image);
    qimg_image_get_stat(image, &out->status);
}

uint64_t
images_signature_of(const QimgImage *image)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(image);
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA1);
    guint8 digest[20];
    gsize n_digest = sizeof digest;
    uint64_t signature;

    for (unsigned i = 0; i < qimg_snapshots_get_n(list); i++) {
        const QimgSnapshot *s = qimg_snapshots_get(list, i);

        g_checksum_update(sum, (const guchar *)&s->serial, sizeof s->serial);
        g_checksum_update(sum, (const guchar *)&s->date_s, sizeof s->date_s);
        g_checksum_update(sum, (const guchar *)&s->date_ns, sizeof s->date_ns);
        g_checksum_update(sum, (const guchar *)s->id, (gssize)s->id_bytes + 1);
    }
    g_checksum_get_digest(sum, digest, &n_digest);
    memcpy(&signature, digest, sizeof signature);
    return signature;
}

/* Notes that data written to a busy entry may be lost. Unless its file has gone, the
 * image stays open: reopened, it would hide the loss. The lock is held. */
static bool
keeps_failed(Images *images, ImageEntry *entry, const GError *reason)
{
    if (!images->flush_error)
        images->flush_error = g_strdup(reason->message);
    if (entry->has_gone)
        return false;
    entry->is_kept = true;
    entry->state = IMAGE_OPEN;
    qimg_cond_broadcast(&images->changed);
    return true;
}

/* Closes the image of a busy entry, without the lock. The facts become those of the file
 * after closing, whose status goes to *@closed_out. */
static void
close_image(ImageEntry *entry, const char *file_name, ImageFacts *facts,
            struct stat *closed_out)
{
    name_dir_cache_clear(&entry->snapshots);
    name_dir_cache_init(&entry->snapshots);
    name_dir_cache_clear(&entry->bitmaps);
    name_dir_cache_init(&entry->bitmaps);
    g_clear_pointer(&entry->image, qimg_image_close);
    *closed_out = facts->status;
    if (!facts->is_writable)
        return;
    if (fstatat(entry->dir->fd, file_name, closed_out, AT_SYMLINK_NOFOLLOW) < 0)
        *closed_out = (struct stat){0}; /* equals no status */
    else if (closed_out->st_mtim.tv_sec >= facts->status.st_mtim.tv_sec)
        facts->status.st_mtim = closed_out->st_mtim;
}

void
images_close_entry(Images *images, ImageEntry *entry)
{
    g_autofree char *file_name = g_strdup(entry->file_name);
    g_autoptr(GError) reason = NULL;
    ImageFacts facts;
    uint64_t signature;
    struct stat closed;
    bool is_flushed;

    entry->state = IMAGE_BUSY;
    qimg_mutex_unlock(&images->lock);
    images_fill_facts(entry->image, &facts);
    signature = images_signature_of(entry->image);
    is_flushed = image_entry_flush(entry, &reason);
    if (!is_flushed)
        g_critical("%s", reason->message);
    qimg_mutex_lock(&images->lock);
    if (!is_flushed && keeps_failed(images, entry, reason))
        return;
    qimg_mutex_unlock(&images->lock);
    close_image(entry, file_name, &facts, &closed);
    qimg_mutex_lock(&images->lock);
    entry->facts = facts;
    entry->has_facts = !entry->is_link;
    entry->closed = closed;
    if (facts.is_writable)
        entry->stamp = 0;
    entry->signature = signature;
    entry->state = IMAGE_CLOSED;
    g_ptr_array_remove_fast(images->open, entry);
    qimg_cond_broadcast(&images->changed);
    images_drop_if_unused(images, entry);
}

void
images_drop_if_unused(Images *images, ImageEntry *entry)
{
    if (!entry->has_gone || entry->n_pins > 0)
        return;
    if (entry->state == IMAGE_OPEN) {
        images_close_entry(images, entry); /* and calls this function again */
    } else if (entry->state == IMAGE_CLOSED) {
        images->n_gone--;
        images_remove_entry(images, entry);
    }
}

ImageEntry *
images_find_idle(const Images *images)
{
    ImageEntry *found = NULL;

    for (guint i = 0; i < images->open->len; i++) {
        ImageEntry *entry = images->open->pdata[i];

        if (entry->state == IMAGE_OPEN && entry->n_pins == 0 && !entry->is_kept &&
            (!found || entry->used_usecs < found->used_usecs))
            found = entry;
    }
    return found;
}

int
images_close_idle(Images *images)
{
    gint64 idle_usecs = (gint64)images->settings.idle_s * G_USEC_PER_SEC;
    int due_ms = -1;

    qimg_mutex_lock(&images->lock);
    for (;;) {
        ImageEntry *entry = images_find_idle(images);
        gint64 left_usecs =
            entry ? entry->used_usecs + idle_usecs - g_get_monotonic_time() : 0;

        if (entry && left_usecs <= 0) {
            images_close_entry(images, entry);
            continue;
        }
        images->sleeps = !entry;
        if (entry)
            due_ms = (int)MIN(left_usecs / 1000 + 1, 1000 * 1000);
        break;
    }
    qimg_mutex_unlock(&images->lock);
    return due_ms;
}
