/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A new file of the host, which vanishes again unless it is kept, and which may take the
 * place of an old one, as a whole and at the end. */
#pragma once

#include <glib.h>
#include <sys/stat.h>

#include "base/types.h"

typedef struct {
    int dir_fd;         /* O_PATH: the directory that it is in */
    char *name;         /* in that directory, without a slash */
    char *made_name;    /* the name it has until it is kept; NULL once it is */
    int fd;             /* while it is open, no other file is taken for this one */
    struct stat status; /* as it was made */
} QimgNewFile;

/* Makes the empty file @path, of @mode less the process's umask. Where something has that
 * name, the answer is -EEXIST, but with @replaces a regular file is left alone until
 * qimg_new_file_keep puts the new one in its place.
 * Ownership: the descriptor in *@fd_out, for reading and writing, is the caller's; free
 * the file with qimg_new_file_free. Errors: -errno; nothing was made then. */
QimgErrno qimg_new_file_make(const char *path, mode_t mode, bool replaces,
                             QimgNewFile **file_out, int *fd_out) QIMG_MUST_CHECK;

/* Gives the file, whose content is the caller's to sync, its name for ever: when this
 * returns 0 the name outlives the machine. Errors: -errno. */
QimgErrno qimg_new_file_keep(QimgNewFile *file) QIMG_MUST_CHECK;

/* Frees, and removes the file unless it was kept; accepts NULL. */
void qimg_new_file_free(QimgNewFile *file);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgNewFile, qimg_new_file_free)
