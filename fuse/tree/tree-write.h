/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Changes of nodes, and which nodes change while the mount lasts. */
#pragma once

#include "tree/tree.h"

/* Whether the node's name stays as long as the mount. */
bool tree_is_lasting(const Tree *tree, Node node);

/* Whether the node can be written to: the disk file of an image open for writing. Opens
 * nothing; false if the image is closed. */
bool tree_is_writable(const Tree *tree, Node node);

/* Whether the node's attributes or bytes change while the mount lasts. Opens nothing. */
bool tree_is_live(const Tree *tree, Node node);

/* Whether the node's name may come and go with the partition table of a changing disk. */
bool tree_may_vanish(const Tree *tree, Node node);

/* Sets the size of a writable node. Returns 0 or a negated errno. */
int tree_resize(const Tree *tree, Node node, uint64_t size_bytes);

/* Change the snapshots in directory @parent (NODE_SNAPSHOTS), or @node (NODE_SNAPSHOT);
 * @name is a file name. Errors: as qimg_image_create_snapshot and its siblings; USAGE for
 * a name that no snapshot has as a file. */
bool tree_create_snapshot(const Tree *tree, Node parent, const char *name,
                          GError **error);
bool tree_delete_snapshot(const Tree *tree, Node node, GError **error);
bool tree_rename_snapshot(const Tree *tree, Node node, const char *name, GError **error);
