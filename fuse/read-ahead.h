/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How far the kernel reads ahead in the files of the mount. */
#pragma once

#include "tree.h"

/* Raises the read-ahead of the mount at @absolute_path from the 128 KiB that the kernel
 * offers to a size of request that goes through the images faster, where their data lie
 * in long stretches and this process may do that (/sys/class/bdi, root). Files that are
 * open already keep what they have.
 *
 * Looks at the mount from the outside, so another thread must be serving it. */
void read_ahead_raise(const Tree *tree, const char *absolute_path);
