/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tree/tree.h"

#include "images/images-open.h"

Tree *
tree_new(Images *images, const Options *options, bool is_single_file)
{
    Tree *tree = g_new0(Tree, 1);

    tree->images = images;
    tree->sizes = text_sizes_new();
    tree->is_writable = options->is_writable;
    tree->is_single_file = is_single_file;
    tree->shows_partitions = !options->no_partitions;
    tree->uid = options->uid;
    tree->gid = options->gid;
    tree->umask = options->umask;
    return tree;
}

void
tree_free(Tree *tree)
{
    text_sizes_free(tree->sizes);
    g_free(tree);
}

int
tree_pin(const Tree *tree, Node node, ImageEntry **entry_out)
{
    g_autoptr(GError) error = NULL;

    *entry_out = images_pin(tree->images, node.image_index, &error);
    return *entry_out ? 0 : -images_errno(error);
}
