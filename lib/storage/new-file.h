/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A new file on the host. It is removed unless it is kept; on keeping, it may replace an
 * old file as a whole. */
#pragma once

#include <glib.h>
#include <sys/stat.h>

#include "base/types.h"

typedef struct {
    int dir_fd;         /* O_PATH: its directory */
    char *name;         /* in that directory, without a slash */
    char *made_name;    /* its present name until it is kept; then NULL */
    int fd;             /* held open, so that its inode number is not reused */
    struct stat status; /* as of creation */
} QimgNewFile;

/* Creates the empty file @path, with @mode less the process's umask. If the name exists,
 * returns -EEXIST; but with @replaces, a regular file stays until qimg_new_file_keep
 * replaces it. Ownership: the caller owns the descriptor in *@fd_out, for reading and
 * writing; free the file with qimg_new_file_free. Errors: -errno; then nothing was
 * created. */
QimgErrno qimg_new_file_make(const char *path, mode_t mode, bool replaces,
                             QimgNewFile **file_out, int *fd_out) QIMG_MUST_CHECK;

/* Gives the file its final name; the caller syncs its content first. After a return of 0
 * the name survives the end of the machine. Errors: -errno. */
QimgErrno qimg_new_file_keep(QimgNewFile *file) QIMG_MUST_CHECK;

/* Frees @file; removes the file on the host unless it was kept; accepts NULL. */
void qimg_new_file_free(QimgNewFile *file);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgNewFile, qimg_new_file_free)
