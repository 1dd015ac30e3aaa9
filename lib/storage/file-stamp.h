/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Detects writes by other processes to an open file that this process does not write
 * to. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "base/lock.h"

typedef struct {
    QimgMutex lock;     /* rank QIMG_RANK_STORAGE */
    struct stat status; /* guarded by lock */
    char *name;         /* guarded by lock: the file's path; NULL: unknown */
} FileStamp;

/* Takes the stamp of @fd, whose status is @status. */
void file_stamp_init(FileStamp *stamp, int fd, const struct stat *status);
void file_stamp_clear(FileStamp *stamp);

/* Whether the content of the regular file @fd may have changed since the stamp was taken:
 * its length or mtime differs, or its ctime does and no new name, link, owner or mode
 * explains it. Never true for a device. Costs an fstat. Any thread. */
bool file_stamp_has_changed(FileStamp *stamp, int fd);
