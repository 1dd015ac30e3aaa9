/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tells whether an open file, which this process does not write to, is written to by
 * another. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "base/lock.h"

typedef struct {
    QimgMutex lock;     /* rank QIMG_RANK_STORAGE */
    struct stat status; /* guarded by lock */
    char *name;         /* guarded by lock: where the file lay; NULL: not known */
} FileStamp;

/* Takes the stamp of @fd, whose status is @status. */
void file_stamp_init(FileStamp *stamp, int fd, const struct stat *status);
void file_stamp_clear(FileStamp *stamp);

/* Whether the content of the regular file @fd may be another one than when the stamp was
 * taken: its length or the time of its last modification differ, or something of its
 * inode changed that no new name, link, owner or mode explains. Never true of a device.
 * Costs an fstat. Any thread. */
bool file_stamp_has_changed(FileStamp *stamp, int fd);
