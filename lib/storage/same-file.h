/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether two statuses are of one file, and whether their times are equal: used for
 * locks, loops, targets, searches, and changes. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

/* Whether two files are the same; different nodes of one device count as the same. A
 * status of zeros, as in storages without a host file, matches no file. */
bool qimg_is_same_file(const struct stat *a, const struct stat *b);

bool qimg_is_same_time(const struct timespec *a, const struct timespec *b);
