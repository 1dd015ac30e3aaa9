/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The directories of snapshots. */
#pragma once

#include "images/snapshot-dir.h"
#include "tree/tree.h"

/* The snapshot that @node, whose image is pinned, is or is in; NULL with @error (may be
 * NULL) set. It belongs to *@dir_out, which the caller frees in either case. */
const QimgSnapshot *tree_snapshot_of(ImageEntry *entry, Node node, SnapshotDir **dir_out,
                                     GError **error);

/* Whether the image has @node: a snapshot, or a node in one. */
int tree_check_snapshot(const Tree *tree, Node node);

/* As tree_child and tree_lookup, for NODE_SNAPSHOTS. */
int tree_child_snapshot(const Tree *tree, Node parent, uint64_t *position,
                        Node *child_out, char **name_out);
int tree_lookup_snapshot(const Tree *tree, Node parent, const char *name,
                         Node *child_out);
