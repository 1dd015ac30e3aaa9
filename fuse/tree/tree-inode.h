/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inode numbers. */
#pragma once

#include "tree/tree.h"

/* Converts to and from inode numbers; 1 is the root. Decoding fails with -ENOENT for a
 * number that encodes no node; the tree need not have the node. */
uint64_t tree_inode_of(const Tree *tree, Node node);
int tree_decode_inode(const Tree *tree, uint64_t inode, Node *node_out);

/* Together with the inode number, distinguishes successive nodes of the same number. */
uint64_t tree_get_generation(const Tree *tree, Node node);
