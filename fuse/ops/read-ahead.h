/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How far the kernel reads ahead in the files of the mount. */
#pragma once

#include "tree/tree.h"

/* Opens the setting of the mount at @absolute_path; -1 where this process may not change
 * it (/sys/class/bdi, root). */
int read_ahead_open(const char *absolute_path);

/* Raises the read-ahead from the 128 KiB that the kernel offers to the largest request,
 * where the disks' data lie in long stretches. @setting_fd is of read_ahead_open. Files
 * that are open already keep what they have. To be called after the kernel's first
 * request has been answered, at which it makes its own choice. */
void read_ahead_raise(const Tree *tree, int setting_fd);
