/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The directory of a copy's target, and names in it. */
#pragma once

#include <glib.h>
#include <sys/stat.h>

#include "base/types.h"

typedef struct {
    int dir_fd;              /* O_PATH; -1: not open */
    char *name;              /* the target's; all names are in this directory */
    char *part_name;         /* the file that will replace the target */
    char *journal_name;      /* for a copy to name */
    char *part_journal_name; /* for a copy to part_name */
} CopyPlace;

/* Opens the directory of @path; with @follows, that of the file behind symbolic links. */
bool copy_place_open(CopyPlace *place, const char *path, bool follows, GError **error);
void copy_place_close(CopyPlace *place);
/* The status of @name, without following links; false if it does not exist. */
bool copy_place_get_status(const CopyPlace *place, const char *name,
                           struct stat *status_out);
/* Opens a regular file; -1 with errno, EINVAL or ELOOP if it is no regular file. */
int copy_place_open_file(const CopyPlace *place, const char *name, int access_mode);
/* Creates a file under an unused @name; -1 with errno. */
int copy_place_make_file(const CopyPlace *place, const char *name, mode_t mode);
/* Whether @name belongs to the file @fd. */
bool copy_place_has(const CopyPlace *place, const char *name, int fd);
/* Removes @name if it belongs to the file @fd. */
void copy_place_remove(const CopyPlace *place, const char *name, int fd);
/* Renames the part to the target's name. */
QimgErrno copy_place_rename_part(const CopyPlace *place) QIMG_MUST_CHECK;
/* Makes the names durable; @fd is any file on the directory's file system. */
QimgErrno copy_place_sync(const CopyPlace *place, int fd) QIMG_MUST_CHECK;
