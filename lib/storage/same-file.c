/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/same-file.h"

bool
qimg_is_same_file(const struct stat *a, const struct stat *b)
{
    if ((a->st_mode & S_IFMT) != (b->st_mode & S_IFMT) || (a->st_mode & S_IFMT) == 0)
        return false;
    if (S_ISBLK(a->st_mode) || S_ISCHR(a->st_mode))
        return a->st_rdev == b->st_rdev;
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool
qimg_is_same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}
