/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A writer can reset the mtime, but not the ctime. Each rename, link and chmod also
 * changes the ctime; these leave the content alone, and show in other fields of the
 * status or in the name. */
#include "storage/file-stamp.h"

#include <glib.h>

#include "storage/real-path.h"
#include "storage/same-file.h"

void
file_stamp_init(FileStamp *stamp, int fd, const struct stat *status)
{
    qimg_mutex_init(&stamp->lock, QIMG_RANK_STORAGE);
    stamp->status = *status;
    stamp->name = qimg_real_path_of(fd);
}

void
file_stamp_clear(FileStamp *stamp)
{
    qimg_mutex_clear(&stamp->lock);
    g_free(stamp->name);
}

/* Whether an event explains the inode's new ctime that is no change of content. */
static bool
is_explained(const struct stat *old, const struct stat *now, const char *old_name,
             const char *name)
{
    return old->st_nlink != now->st_nlink || old->st_mode != now->st_mode ||
           old->st_uid != now->st_uid || old->st_gid != now->st_gid ||
           (old_name && name && g_strcmp0(old_name, name) != 0);
}

bool
file_stamp_has_changed(FileStamp *stamp, int fd)
{
    g_autofree char *name = NULL;
    struct stat now;

    /* A file whose status cannot be read cannot be read either. */
    if (fstat(fd, &now) < 0 || !S_ISREG(now.st_mode))
        return false;
    QIMG_LOCK_SCOPE(&stamp->lock);
    if (now.st_size != stamp->status.st_size ||
        !qimg_is_same_time(&now.st_mtim, &stamp->status.st_mtim))
        return true;
    if (qimg_is_same_time(&now.st_ctim, &stamp->status.st_ctim))
        return false;
    name = qimg_real_path_of(fd);
    if (!is_explained(&stamp->status, &now, stamp->name, name))
        return true;
    stamp->status = now;
    g_free(stamp->name);
    stamp->name = g_steal_pointer(&name);
    return false;
}
