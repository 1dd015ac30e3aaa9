/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The directory of bitmaps. */
#pragma once

#include "tree/tree.h"

/* As tree_check, tree_child and tree_lookup, for NODE_BITMAP and its parent. */
int tree_check_bitmap(const Tree *tree, Node node);
int tree_child_bitmap(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
                      char **name_out);
int tree_lookup_bitmap(const Tree *tree, Node parent, const char *name, Node *child_out);

/* Opens the layer with the bitmap; its image is pinned. NULL with @error set. */
QimgImage *tree_open_bitmap_layer(ImageEntry *entry, Node node, GError **error);

/* Makes a reader of the bitmap as it is now; @layer is its layer, which the reader
 * borrows, and *@layer_out the layer's number. NULL with @error set. */
QimgBitmapReader *tree_read_bitmap(ImageEntry *entry, Node node, QimgImage *layer,
                                   unsigned *layer_out, GError **error);
