/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether two statuses are of one file, and whether their times are one: the one answer
 * for locks, loops, targets, searches, and changes. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

/* Whether two files are one: several nodes of a device are the same. A status of zeros,
 * which storages that are no host files have, is that of no file. */
bool qimg_is_same_file(const struct stat *a, const struct stat *b);

bool qimg_is_same_time(const struct timespec *a, const struct timespec *b);
