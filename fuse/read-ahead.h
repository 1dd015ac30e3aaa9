/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How far the kernel reads ahead in the files of the mount. */
#pragma once

#include "tree.h"

/* Raises the read-ahead of the mount at @absolute_path from the 128 KiB that the kernel
 * offers to the largest request, where the disks' data lie in long stretches and this
 * process may do that (/sys/class/bdi, root). Files that are open already keep what they
 * have. To be called after the kernel's first request has been answered, at which it
 * makes its own choice. */
void read_ahead_raise(const Tree *tree, const char *absolute_path);
