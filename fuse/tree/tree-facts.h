/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Attributes of nodes and of the whole mount. */
#pragma once

#include <sys/stat.h>

#include "tree/tree.h"

/* The attributes of a node. */
int tree_stat(const Tree *tree, Node node, struct stat *out);

/* The values for statfs. For closed images less is known. */
typedef struct {
    uint64_t free_bytes; /* by which all writable images can certainly grow */
    uint64_t
        used_bytes; /* allocated by writable images; plus the disk sizes of the others */
    uint64_t unit_bytes; /* a page; for writing, the smallest cluster if larger */
    unsigned n_images;
} TreeSpace;

void tree_get_space(const Tree *tree, TreeSpace *out);
