/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a tree can tell and do only where images are open for writing. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "names.h"
#include "tree.h"

/* Whether the image of @node is open for writing. */
static bool
is_image_writable(const Tree *tree, Node node)
{
    g_autoptr(ImageEntry) entry = images_pin_open(tree->images, node.image_index);

    return entry && qimg_image_is_writable(entry->image);
}

static bool
can_change_snapshots(const Tree *tree, Node node)
{
    g_autoptr(ImageEntry) entry = images_pin_open(tree->images, node.image_index);

    return entry && qimg_image_can_change_snapshots(entry->image);
}

bool
tree_is_writable(const Tree *tree, Node node)
{
    return (node.kind == NODE_DISK || node.kind == NODE_PARTITION) &&
           is_image_writable(tree, node);
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
        return is_image_writable(tree, node);
    case NODE_SNAPSHOT_INFO: /* it has the name */
        return can_change_snapshots(tree, node);
    case NODE_LAYER_PARTITION:
    case NODE_LAYER: /* those below the first never change */
        return node.index == 0 && is_image_writable(tree, node);
    default:
        return false;
    }
}

bool
tree_may_vanish(const Tree *tree, Node node)
{
    return node_is_of_partitions(node) && is_image_writable(tree, node);
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
        return size_bytes == item->length_bytes ? 0 : -EINVAL;
    }
    /* Opening with O_TRUNC an empty disk, and what copying programs do at their end. */
    if (err || size_bytes == qimg_image_get_size_bytes(entry->image))
        return err;
    err = qimg_image_resize(entry->image, size_bytes);
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

/* Puts the image's path before the text of a failed change. */
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
        entry, name && qimg_image_create_snapshot(entry->image, name, error), error);
}

bool
tree_delete_snapshot(const Tree *tree, Node node, GError **error)
{
    g_autoptr(ImageEntry) entry = images_pin(tree->images, node.image_index, error);

    if (!entry)
        return false;
    return name_image(entry, qimg_image_delete_snapshot(entry->image, node.index, error),
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
    return name_image(
        entry, name && qimg_image_rename_snapshot(entry->image, node.index, name, error),
        error);
}

bool
tree_flush(const Tree *tree, GError **error)
{
    bool is_good = true;

    for (unsigned number = 0; images_next(tree->images, &number); number++) {
        g_autoptr(ImageEntry) entry = images_pin_open(tree->images, number);

        if (entry && !image_entry_flush(entry, is_good ? error : NULL))
            is_good = false;
    }
    return is_good;
}
