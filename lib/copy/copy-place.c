/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The names used by a copy. They are looked up in a directory that is held open, so that
 * renaming or replacing the directory meanwhile has no effect, and a name is removed or
 * replaced only while it belongs to the caller's open file. */
#include "copy/copy-place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/errors.h"
#include "storage/same-file.h"

#define JOURNAL_SUFFIX ".qimg-resume"
#define PART_SUFFIX    ".qimg-part"

bool
copy_place_open(CopyPlace *place, const char *path, bool follows, GError **error)
{
    char *real = follows ? realpath(path, NULL) : NULL;
    g_autofree char *dir = g_path_get_dirname(real ? real : path);

    place->name = g_path_get_basename(real ? real : path);
    free(real);
    place->part_name = g_strconcat(place->name, PART_SUFFIX, NULL);
    place->journal_name = g_strconcat(place->name, JOURNAL_SUFFIX, NULL);
    place->part_journal_name = g_strconcat(place->part_name, JOURNAL_SUFFIX, NULL);
    place->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (place->dir_fd < 0)
        qimg_set_error_errno(error, errno,
                             errno == EROFS ? QIMG_HINT_READ_ONLY
                                            : "check the path and its permissions",
                             "cannot be made");
    else if (g_str_has_suffix(path, "/"))
        qimg_set_error_errno(error, EISDIR, "name a file in it", "cannot be made");
    else
        return true;
    return false;
}

void
copy_place_close(CopyPlace *place)
{
    if (place->dir_fd >= 0)
        close(place->dir_fd);
    place->dir_fd = -1;
    g_clear_pointer(&place->name, g_free);
    g_clear_pointer(&place->part_name, g_free);
    g_clear_pointer(&place->journal_name, g_free);
    g_clear_pointer(&place->part_journal_name, g_free);
}

bool
copy_place_get_status(const CopyPlace *place, const char *name, struct stat *status_out)
{
    return fstatat(place->dir_fd, name, status_out, AT_SYMLINK_NOFOLLOW) == 0;
}

int
copy_place_open_file(const CopyPlace *place, const char *name, int access_mode)
{
    /* O_NONBLOCK: must not wait for a FIFO. */
    qimg_autofd fd = openat(place->dir_fd, name,
                            access_mode | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat status;

    if (fd < 0)
        return -1;
    if (fstat(fd, &status) < 0)
        return -1;
    if (S_ISREG(status.st_mode))
        return qimg_steal_fd(&fd);
    errno = EINVAL;
    return -1;
}

int
copy_place_make_file(const CopyPlace *place, const char *name, mode_t mode)
{
    return openat(place->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOCTTY | O_CLOEXEC,
                  mode);
}

bool
copy_place_has(const CopyPlace *place, const char *name, int fd)
{
    struct stat named, own;

    return copy_place_get_status(place, name, &named) && fstat(fd, &own) == 0 &&
           qimg_is_same_file(&named, &own);
}

void
copy_place_remove(const CopyPlace *place, const char *name, int fd)
{
    if (copy_place_has(place, name, fd))
        unlinkat(place->dir_fd, name, 0);
}

QimgErrno
copy_place_rename_part(const CopyPlace *place)
{
    return renameat(place->dir_fd, place->part_name, place->dir_fd, place->name) < 0
               ? -errno
               : 0;
}

QimgErrno
copy_place_sync(const CopyPlace *place, int fd)
{
    qimg_autofd dir_fd =
        openat(place->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);

    if (dir_fd >= 0 && fsync(dir_fd) == 0)
        return 0;
    if (dir_fd >= 0 && errno != EINVAL && errno != ENOTSUP && errno != EBADF)
        return -errno;
    /* A directory without read permission, or a file system that cannot sync
     * directories. */
    return syncfs(fd) < 0 ? -errno : 0;
}
