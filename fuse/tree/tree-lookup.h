/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finding nodes: by number, by name, one after the other. */
#pragma once

#include "tree/tree.h"

/* The node with the number @inode, as tree_decode_inode, if the tree has it. */
int tree_node_of(const Tree *tree, uint64_t inode, Node *node_out);

/* Whether the tree has @node. */
int tree_check(const Tree *tree, Node node);

/* The child of directory @parent called @name. */
int tree_lookup(const Tree *tree, Node parent, const char *name, Node *child_out);

/* The first child of directory @parent at or after @position and its name (free with
 * g_free); stores in *@position the next possible position. -ENOENT past the last child.
 * A child keeps its position while others come and go. */
int tree_child(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
               char **name_out);

/* Calls @func for each directory that has a child for the image called @image_name, with
 * its inode number and the child's name. */
void tree_list_names(const Tree *tree, const char *image_name,
                     void (*func)(uint64_t parent_inode, const char *name, void *user),
                     void *user);
