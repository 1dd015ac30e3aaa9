/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tree of nodes: the files of the mount with names, inode numbers and attributes. It
 * is computed from the images; nodes are values and inode numbers their encoding, so
 * nothing is counted, locked or forgotten.
 *
 * Functions that need a closed image open it. They return 0 or a negated errno for the
 * user of the file: -ENOENT if the tree has no such node, -ESTALE if its image has gone
 * (the kernel then repeats the lookup), or the value of images_errno for an image that
 * cannot be opened. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "images/images-pin.h"
#include "mount/options.h"
#include "tree/node.h"
#include "tree/text-sizes.h"

typedef struct {
    Images *images;
    TextSizes *sizes;    /* of control files */
    bool is_writable;    /* images are opened for writing */
    bool is_single_file; /* the root is the disk of image 0 */
    bool shows_partitions;
    uid_t uid;
    gid_t gid;
    mode_t umask;
} Tree;

/* Makes the tree of @images; the caller keeps them, and they must outlive it. */
Tree *tree_new(Images *images, const Options *options, bool is_single_file);
void tree_free(Tree *tree);

/* Pins the image of @node; see images_pin. */
int tree_pin(const Tree *tree, Node node, ImageEntry **entry_out);
