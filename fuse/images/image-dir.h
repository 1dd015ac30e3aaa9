/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A directory with images: finds and opens its images. It is held open, so that it can
 * lie below the mount. Nothing here follows a symbolic link or enters a subdirectory,
 * which may be the mount itself. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>

#include "qimg.h"

/* A file that holds a disk, but none that can be shown. */
typedef struct {
    char *name;
    char *reason;
} OtherFile;

typedef struct {
    char *path; /* as given, without trailing slashes */
    int fd;
    bool is_watched;       /* const while mounted: changes are reported by a watch */
    GHashTable *files;     /* for images-dir.c: file names to entries */
    GPtrArray *others;     /* for images-dir.c: OtherFile * */
    struct timespec mtime; /* for images-dir.c: the directory's mtime at its last scan */
    bool has_failed;       /* for images-dir.c: the last scan failed */
} ImageDir;

/* Errors: NOT_FOUND, FAILED. Free with image_dir_free. */
ImageDir *image_dir_new(const char *path, GError **error);
void image_dir_free(ImageDir *dir);

/* Whether the directory shows its file @name, and the file's status. It shows a regular
 * file with a suffix or the content of a disk image, or a link with such a suffix, unless
 * hidden. Opens only files without such a suffix. */
bool image_dir_has(const ImageDir *dir, const char *name, struct stat *status_out);

/* Why the regular file @name, which image_dir_has does not know, holds a disk that cannot
 * be shown: by its content, or by a name like disk.img.xz. NULL: it holds none; else free
 * with g_free. */
char *image_dir_find_other(const ImageDir *dir, const char *name);

/* Notes the @reason (taken over; NULL: none any more) for the file @name in others. */
void image_dir_set_other(ImageDir *dir, const char *name, char *reason);

/* The sorted names (char *) of the files that may be images. Free with g_ptr_array_unref.
 * NULL with errno set. */
GPtrArray *image_dir_list(const ImageDir *dir);

/* The file's name for messages. Free with g_free. */
char *image_dir_path_of(const ImageDir *dir, const char *name);

/* Opens an image. Errors: as qimg_image_open. */
QimgImage *image_dir_open(const ImageDir *dir, const char *name,
                          const QimgOptions *options, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageDir, image_dir_free)
