/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creates new files. A replacement is made beside the old file under a temporary name and
 * renamed: at any time either the old content or the new one is there. */
#include "storage/new-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "storage/same-file.h"

#define N_NAME_TRIES 100

static int
open_new(int dir_fd, const char *name, mode_t mode)
{
    return openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, mode);
}

/* Creates it under an unused name; -1 with errno. */
static int
open_beside(QimgNewFile *file, mode_t mode)
{
    struct stat old;
    int fd = -1;

    if (fstatat(file->dir_fd, file->name, &old, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    if (!S_ISREG(old.st_mode)) {
        errno = EEXIST;
        return -1;
    }
    errno = EEXIST;
    for (int i = 0; fd < 0 && errno == EEXIST && i < N_NAME_TRIES; i++) {
        g_free(file->made_name);
        file->made_name = g_strdup_printf(".qimg-new-%08x", g_random_int());
        fd = open_new(file->dir_fd, file->made_name, mode);
    }
    return fd;
}

QimgErrno
qimg_new_file_make(const char *path, mode_t mode, bool replaces, QimgNewFile **file_out,
                   int *fd_out)
{
    g_autoptr(QimgNewFile) file = g_new0(QimgNewFile, 1);
    char *real = replaces ? realpath(path, NULL) : NULL; /* a symbolic link stays one */
    g_autofree char *dir = g_path_get_dirname(real ? real : path);
    qimg_autofd fd = -1;

    file->fd = -1;
    file->name = g_path_get_basename(real ? real : path);
    free(real);
    file->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (file->dir_fd < 0)
        return -errno;
    if (g_str_has_suffix(path, "/"))
        return -EISDIR;
    fd = open_new(file->dir_fd, file->name, mode);
    if (fd >= 0)
        file->made_name = g_strdup(file->name);
    else if (errno == EEXIST && replaces)
        fd = open_beside(file, mode);
    if (fd < 0) {
        int errnum = errno;

        g_clear_pointer(&file->made_name, g_free); /* not ours to remove */
        return -errnum;
    }
    file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fstat(fd, &file->status) < 0 || file->fd < 0)
        return -errno;
    *fd_out = qimg_steal_fd(&fd);
    *file_out = g_steal_pointer(&file);
    return 0;
}

QimgErrno
qimg_new_file_keep(QimgNewFile *file)
{
    qimg_autofd fd = -1;

    if (strcmp(file->made_name, file->name) != 0) {
        if (renameat(file->dir_fd, file->made_name, file->dir_fd, file->name) < 0)
            return -errno;
        g_clear_pointer(&file->made_name, g_free); /* the old file is gone */
    }
    /* A caller without permission to read the directory cannot do more; EINVAL: it cannot
     * be synced. */
    fd = openat(file->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && fsync(fd) < 0 && errno != EINVAL)
        return -errno;
    g_clear_pointer(&file->made_name, g_free);
    return 0;
}

void
qimg_new_file_free(QimgNewFile *file)
{
    struct stat found;

    if (!file)
        return;
    /* Keep a file that another program has put there meanwhile. */
    if (file->made_name &&
        fstatat(file->dir_fd, file->made_name, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
        qimg_is_same_file(&file->status, &found))
        unlinkat(file->dir_fd, file->made_name, 0);
    if (file->fd >= 0)
        close(file->fd);
    if (file->dir_fd >= 0)
        close(file->dir_fd);
    g_free(file->made_name);
    g_free(file->name);
    g_free(file);
}
