/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The directories of partitions, of all three kinds. */
#pragma once

#include "tree/tree.h"

/* The partitions for a node of partitions, whose image is pinned: -ENOENT if there is no
 * table, or the partition has gone. *@item_out (may be NULL): for a partition's node the
 * partition, owned by the list; else NULL. Free the list with qimg_partitions_unref. */
int tree_get_partitions(const Tree *tree, ImageEntry *entry, Node node,
                        QimgPartitions **list_out, const QimgPartition **item_out);

/* As tree_check for such a node. @opens: may open the image for that. */
int tree_check_partitions(const Tree *tree, Node node, bool opens);

/* As tree_child and tree_lookup, for a directory of partitions. */
int tree_child_partition(const Tree *tree, Node parent, uint64_t *position,
                         Node *child_out, char **name_out);
int tree_lookup_partition(const Tree *tree, Node parent, const char *name,
                          Node *child_out);

/* For a node of partitions, whose image is pinned: opens the disk, snapshot or layer, or
 * the partition itself. NULL with @error set. */
QimgImage *tree_open_partitions(const Tree *tree, ImageEntry *entry, Node node,
                                GError **error);

/* As tree_text, for a node whose image is pinned. */
char *tree_partitions_text(const Tree *tree, ImageEntry *entry, Node node,
                           GError **error);
