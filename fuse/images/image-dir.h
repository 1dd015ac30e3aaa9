/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A directory whose images are shown: which of its files are images, and opening them.
 * It is held open, so that it can lie below the mount. Nothing here follows a symbolic
 * link or looks into a directory below, which may be the mount itself. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>

#include "qimg.h"

typedef struct {
    char *path; /* as given, without slashes at its end */
    int fd;
    bool is_watched;       /* const while mounted: somebody tells of changes */
    GHashTable *files;     /* of images-dir.c: names of the files to their entries */
    struct timespec mtime; /* of images-dir.c: of the directory, when it was read */
    bool has_failed;       /* of images-dir.c: it could not be read at the last try */
} ImageDir;

/* Errors: NOT_FOUND, FAILED. Free with image_dir_free. */
ImageDir *image_dir_new(const char *path, GError **error);
void image_dir_free(ImageDir *dir);

/* Whether the directory shows its file @name, with the file's status: a regular file with
 * a suffix of disk images, or with the content of one, or a link with such a suffix; none
 * that is hidden. Only files without such a suffix are opened. */
bool image_dir_has(const ImageDir *dir, const char *name, struct stat *status_out);

/* The names (char *) of the files that may be images, in order. Free with
 * g_ptr_array_unref. NULL with errno set. */
GPtrArray *image_dir_list(const ImageDir *dir);

/* What messages call the file. Free with g_free. */
char *image_dir_path_of(const ImageDir *dir, const char *name);

/* Opens an image. Errors: as qimg_image_open. */
QimgImage *image_dir_open(const ImageDir *dir, const char *name,
                          const QimgOptions *options, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageDir, image_dir_free)
