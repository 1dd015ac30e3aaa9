/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories of images: tracks the images coming and going in them. */
#pragma once

#include "images/images.h"

/* Adds a directory, whose images images_scan finds; ignores one that was added already.
 * Errors: as image_dir_new; USAGE with options that serve one image. */
bool images_add_directory(Images *images, const char *path, GError **error);

/* The directories: while the mount lasts, their images can still be opened, and so can
 * the files that these name, as far as the option "backing" permits. NULL past the
 * last. */
ImageDir *images_get_directory(const Images *images, unsigned place);

/* Finds the images that have come to or gone from @dir. False with errno. Concurrent
 * scans and updates take turns. */
bool images_scan(Images *images, ImageDir *dir);

typedef enum {
    FILE_CREATED,  /* a writer may be active */
    FILE_COMPLETE, /* moved there, or closed by a writer */
    FILE_LEFT,     /* removed */
} FileEvent;

/* Updates the registry after a change of file @name in @dir. */
void images_update(Images *images, ImageDir *dir, const char *name, FileEvent event);

/* Scans the unwatched directories that have changed. */
void images_refresh(Images *images);

/* The names (char *, without ".raw") of images that have gone since the last call; free
 * with g_ptr_array_unref. */
GPtrArray *images_take_gone(Images *images);

/* Avoids @device, the device of the mount itself. Call before anything is served. */
void images_avoid_device(Images *images, dev_t device);

/* A file of the directories that holds a disk, but none that can be shown, and why; both
 * to be freed with g_free. False past the last @place. */
bool images_get_other(Images *images, unsigned place, char **file_out, char **reason_out);

/* Why the last opening of the image failed, or which of its files has changed since: the
 * file and the reason, both to be freed with g_free. False: no error, or not tried. */
bool images_get_error(Images *images, unsigned number, char **file_out,
                      char **reason_out);

/* The free bytes on the file systems of all directories; UINT64_MAX without
 * directories. */
uint64_t images_get_free_bytes(const Images *images);

/* The times (and nothing else) for the directories above all images. */
void images_get_times(Images *images, struct stat *out);
