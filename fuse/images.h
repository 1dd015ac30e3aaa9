/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The images of a mount, by number: which there are, their names, and which of them are
 * open. Those that were named on the command line are open as long as the mount lasts.
 *
 * I1  A number stands for one file for ever: what comes later, also under the same name,
 *     has another one. (After MAX_IMAGES of them numbers come again, with another
 *     generation.)
 * I2  Whoever uses an image has it pinned; a pinned image stays open.
 * I3  The lock is not held over I/O: an entry that is being opened or closed is busy, and
 *     whoever wants it waits. */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "options.h"
#include "partition-dir.h"
#include "qimg.h"
#include "snapshot-dir.h"

/* Numbers are smaller than this. */
#define MAX_IMAGES (1u << 22)

typedef struct Images Images;

typedef struct ImageEntry {
    Images *images; /* const */
    /* Of a pinned entry: */
    QimgImage *image;
    SnapshotDirCache snapshots;
    PartitionDirCache partitions;
    /* For images.c alone: */
    unsigned number;     /* const */
    unsigned generation; /* const: how often numbers had come round */
    char *name;          /* guarded by images->lock: without ".raw" */
    unsigned n_pins;     /* guarded by images->lock */
} ImageEntry;

/* Without images. @options must outlive it. */
Images *images_new(const Options *options);

/* Closes all images; none may be pinned. Accepts NULL. */
void images_free(Images *images);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Images, images_free)

/* Adds an open image, which was named as @path, taking it over on success. Errors: USAGE
 * where the name that it would be shown by is taken. */
bool images_add_open(Images *images, QimgImage *image, const char *path, GError **error);

/* How many there are. */
unsigned images_get_n(Images *images);

/* Gives in *@number the first image with that number or a higher one. */
bool images_next(Images *images, unsigned *number);

/* The number of the image that is shown as @name. */
bool images_find(Images *images, const char *name, unsigned *number_out);

/* Whether there is an image of that number. */
bool images_has(Images *images, unsigned number);

/* The name by which it is shown, without ".raw"; NULL: there is none. Free with g_free.
 */
char *images_get_name(Images *images, unsigned number);

/* Tells files apart that had the same number; for the kernel. */
uint64_t images_get_generation(Images *images, unsigned number);

/* Opens the image, where it is not open, and keeps it so until image_entry_unpin. NULL
 * with @error set. */
ImageEntry *images_pin(Images *images, unsigned number, GError **error);

/* As images_pin, of an image that is open: NULL where it is not. */
ImageEntry *images_pin_open(Images *images, unsigned number);

/* Accepts NULL. */
void image_entry_unpin(ImageEntry *entry);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageEntry, image_entry_unpin)

/* Of a pinned entry: its snapshots as a directory at this moment; free with
 * snapshot_dir_unref. */
SnapshotDir *image_entry_get_snapshots(ImageEntry *entry);

/* Of a pinned entry: brings what was written to it to stable storage. False with @error
 * (may be NULL) set, which names the image. */
bool image_entry_flush(ImageEntry *entry, GError **error);

/* The times (alone) that the directories above all images show. */
void images_get_times(Images *images, struct stat *out);

/* The errno (positive) for somebody who uses a file of an image that could not be opened
 * because of @error: EIO for what they would take for something else. */
int images_errno(const GError *error);
