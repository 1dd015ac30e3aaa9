/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel's read-ahead for the files of the mount. */
#pragma once

#include "tree/tree.h"

/* Opens the setting of the mount at @absolute_path; -1 if this process may not change it
 * (/sys/class/bdi, root). */
int read_ahead_open(const char *absolute_path);

/* Raises the read-ahead from the kernel's 128 KiB to the largest request, if the disks'
 * data lie in long stretches. @setting_fd is from read_ahead_open. Already open files
 * keep their setting. Call after the answer to the kernel's first request, at which it
 * makes its own choice. */
void read_ahead_raise(const Tree *tree, int setting_fd);
