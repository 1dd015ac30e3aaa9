/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Facts and changes of a tree that need writable images. */
#include "tree/tree-write.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "images/images-dir.h"
#include "images/images-open.h"
#include "images/names.h"
#include "tree/tree-partitions.h"

static bool
can_change_snapshots(const Tree *tree, Node node)
{
    g_autoptr(ImageEntry) entry = images_pin_open(tree->images, node.image_index);

    return entry && qimg_image_can_change_snapshots(entry->image);
}

bool
tree_is_writable(const Tree *tree, Node node)
{
    g_autoptr(ImageEntry) entry = NULL;

    if (node.kind == NODE_DISK || node.kind == NODE_PARTITION)
        entry = images_pin_open(tree->images, node.image_index);
    return entry && qimg_image_is_writable(entry->image);
}

bool
tree_is_live(const Tree *tree, Node node)
{
    switch (node.kind) {
    case NODE_DISK:
    case NODE_PARTITION:
    case NODE_PARTITIONS_INFO:
    case NODE_INFO:
    case NODE_MAP:
    case NODE_BITMAP:
        return images_is_writable(tree->images, node.image_index);
    case NODE_SNAPSHOT_INFO: /* it contains the snapshot's name */
        return can_change_snapshots(tree, node);
    case NODE_STATS:
    case NODE_ERRORS: /* its images come and go */
        return images_get_directory(tree->images, 0) != NULL;
    case NODE_LAYER_PARTITION:
    case NODE_LAYER: /* those below the first never change */
        return node.index == 0 && images_is_writable(tree->images, node.image_index);
    default:
        return false;
    }
}

bool
tree_may_vanish(const Tree *tree, Node node)
{
    return node_is_of_partitions(node) &&
           images_is_writable(tree->images, node.image_index);
}

bool
tree_is_lasting(const Tree *tree, Node node)
{
    return !images_get_directory(tree->images, 0) ||
           (node_is_of_image(node) && !images_can_go(tree->images, node.image_index));
}

int
tree_resize(const Tree *tree, Node node, uint64_t size_bytes)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(QimgPartitions) list = NULL;
    const QimgPartition *item;
    int err = tree_pin(tree, node, &entry);

    if (!err && node.kind == NODE_PARTITION) {
        err = tree_get_partitions(tree, entry, node, &list, &item);
        if (err)
            return err;
        /* O_TRUNC, which arrives as size 0, changes nothing, as on a device. */
        return size_bytes == item->length_bytes || size_bytes == 0 ? 0 : -EINVAL;
    }
    /* Unchanged: O_TRUNC on an empty disk, and the final truncation of copying
     * programs. */
    if (err || size_bytes == qimg_image_get_size_bytes(entry->image))
        return err;
    image_entry_expect_writes(entry);
    err = qimg_image_resize(entry->image, size_bytes, NULL, NULL);
    partition_dir_note_change(&entry->partitions);
    return err;
}

/* The name of a snapshot for @file_name; NULL with @error set. */
static char *
snapshot_name_of(const char *file_name, GError **error)
{
    char *name = names_to_snapshot(file_name);

    if (!name)
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "%s: no snapshot can be shown by this name (write %%25 for a percent "
                    "sign, %%2E for a leading dot)",
                    file_name);
    return name;
}

/* Prefixes the text of a failed change with the image's path. */
static bool
name_image(const ImageEntry *entry, bool is_done, GError **error)
{
    if (!is_done)
        g_prefix_error(error, "%s: ", qimg_image_get_layer_path(entry->image, 0));
    return is_done;
}

bool
tree_create_snapshot(const Tree *tree, Node parent, const char *file_name, GError **error)
{
    g_autoptr(ImageEntry) entry = images_pin(tree->images, parent.image_index, error);
    g_autofree char *name = NULL;

    if (!entry)
        return false;
    name = snapshot_name_of(file_name, error);
    return name_image(
        entry, name && qimg_image_create_snapshot(entry->image, name, NULL, NULL, error),
        error);
}

bool
tree_delete_snapshot(const Tree *tree, Node node, GError **error)
{
    g_autoptr(ImageEntry) entry = images_pin(tree->images, node.image_index, error);

    if (!entry)
        return false;
    return name_image(entry,
                      qimg_image_delete_snapshot(entry->image,
                                                 node.index - entry->first_index, NULL,
                                                 NULL, error),
                      error);
}

bool
tree_rename_snapshot(const Tree *tree, Node node, const char *file_name, GError **error)
{
    g_autoptr(ImageEntry) entry = images_pin(tree->images, node.image_index, error);
    g_autofree char *name = NULL;

    if (!entry)
        return false;
    name = snapshot_name_of(file_name, error);
    return name_image(entry,
                      name && qimg_image_rename_snapshot(entry->image,
                                                         node.index - entry->first_index,
                                                         name, error),
                      error);
}
