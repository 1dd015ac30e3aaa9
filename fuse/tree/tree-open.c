/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The disks and texts behind nodes. */
#include "tree/tree-open.h"

#include "images/images-open.h"
#include "tree/tree-bitmaps.h"
#include "tree/tree-partitions.h"
#include "tree/tree-snapshots.h"

char *
tree_text(const Tree *tree, ImageEntry *entry, Node node, GError **error)
{
    g_autoptr(SnapshotDir) dir = NULL;
    const QimgSnapshot *snapshot;

    if (node_is_of_partitions(node))
        return tree_partitions_text(tree, entry, node, error);
    snapshot = tree_snapshot_of(entry, node, &dir, error);
    return snapshot ? qimg_snapshot_json(snapshot) : NULL;
}

static QimgImage *
open_handle(const Tree *tree, ImageEntry *entry, Node node, GError **error)
{
    if (node_is_of_partitions(node))
        return tree_open_partitions(tree, entry, node, error);
    switch (node.kind) {
    case NODE_SNAPSHOT_DISK:
        return qimg_image_open_snapshot(entry->image, node.index - entry->first_index,
                                        error);
    case NODE_VMSTATE:
        return qimg_image_open_vmstate(entry->image, node.index - entry->first_index,
                                       error);
    case NODE_LAYER:
        return qimg_image_open_layer(entry->image, node.index, error);
    case NODE_BITMAP:
        return tree_open_bitmap_layer(entry, node, error);
    default:
        return qimg_image_open_layer(entry->image, 0, error);
    }
}

QimgImage *
tree_open_image(const Tree *tree, Node node, ImageEntry **entry_out, GError **error)
{
    g_autoptr(ImageEntry) entry =
        images_pin_for_open(tree->images, node.image_index, error);
    QimgImage *image = entry ? open_handle(tree, entry, node, error) : NULL;

    if (image)
        *entry_out = g_steal_pointer(&entry);
    return image;
}
