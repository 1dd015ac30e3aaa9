/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Attributes of nodes and of the whole mount. */
#include "tree/tree-facts.h"

#include "images/images-dir.h"
#include "images/images-open.h"
#include "tree/control-text.h"
#include "tree/tree-inode.h"
#include "tree/tree-partitions.h"
#include "tree/tree-snapshots.h"

/* The size of a node whose size is known only from the open image. */
static uint64_t
size_within(const Tree *tree, ImageEntry *entry, Node node)
{
    g_autoptr(QimgImage) layer = NULL;
    g_autoptr(SnapshotDir) dir = NULL;
    g_autoptr(QimgPartitions) list = NULL;
    const QimgSnapshot *snapshot;
    const QimgPartition *item;

    if (node_is_partition(node))
        return tree_get_partitions(tree, entry, node, &list, &item) == 0
                   ? item->length_bytes
                   : 0;
    switch (node.kind) {
    case NODE_SNAPSHOT_DISK:
    case NODE_VMSTATE:
        snapshot = tree_snapshot_of(entry, node, &dir, NULL);
        if (!snapshot)
            return 0;
        return node.kind == NODE_VMSTATE ? snapshot->vm_state_bytes
                                         : snapshot->disk_bytes;
    case NODE_LAYER:
        layer = qimg_image_open_layer(entry->image, node.index, NULL);
        return layer ? qimg_image_get_size_bytes(layer) : 0;
    default:
        return control_text_measure(tree, entry, node);
    }
}

/* Stores the size of @node, which belongs to an image. */
static int
get_size(const Tree *tree, Node node, const ImageFacts *facts, uint64_t *size_bytes_out)
{
    g_autoptr(ImageEntry) entry = NULL;
    int err = 0;

    *size_bytes_out = 0;
    switch (node.kind) {
    case NODE_DISK:
        *size_bytes_out = facts->size_bytes;
        break;
    case NODE_SNAPSHOT_DISK:
    case NODE_VMSTATE:
    case NODE_LAYER:
    case NODE_INFO:
    case NODE_SNAPSHOT_INFO:
    case NODE_PARTITION:
    case NODE_SNAPSHOT_PARTITION:
    case NODE_LAYER_PARTITION:
    case NODE_PARTITIONS_INFO:
    case NODE_SNAPSHOT_PARTITIONS_INFO:
    case NODE_LAYER_PARTITIONS_INFO:
        err = tree_pin(tree, node, &entry);
        if (!err)
            *size_bytes_out = size_within(tree, entry, node);
        break;
    default:
        break;
    }
    return err;
}

/* The attributes common to nodes of all kinds. */
static void
stat_basically(const Tree *tree, Node node, const struct stat *times, struct stat *out)
{
    *out = (struct stat){
        .st_ino = tree_inode_of(tree, node),
        .st_mode = node_is_directory(node) ? S_IFDIR | 0555 : S_IFREG | 0444,
        .st_nlink = node_is_directory(node) ? 2 : 1,
        .st_uid = tree->uid,
        .st_gid = tree->gid,
        .st_atim = times->st_atim,
        .st_mtim = times->st_mtim,
        .st_ctim = times->st_ctim,
        .st_blksize = 4096,
    };
    out->st_mode &= ~tree->umask;
}

int
tree_stat(const Tree *tree, Node node, struct stat *out)
{
    g_autoptr(GError) error = NULL;
    ImageFacts facts;
    struct stat times;
    uint64_t size_bytes;
    int err;

    if (!node_is_of_image(node)) {
        images_get_times(tree->images, &times);
        stat_basically(tree, node, &times, out);
        if (!node_is_directory(node))
            out->st_size = (off_t)control_text_measure(tree, NULL, node);
        out->st_blocks = (out->st_size + 511) / 512;
        return 0;
    }
    if (!images_get_facts(tree->images, node.image_index, &facts, &error))
        return -images_errno(error);
    err = get_size(tree, node, &facts, &size_bytes);
    if (err)
        return err;
    stat_basically(tree, node, &facts.status, out);
    if (((node.kind == NODE_DISK || node.kind == NODE_PARTITION) && facts.is_writable) ||
        (node.kind == NODE_SNAPSHOTS && facts.can_change_snapshots))
        out->st_mode |= S_IWUSR & ~tree->umask;
    /* Caps a damaged size at the maximal size of a file; reads stop there, too. */
    out->st_size = (off_t)MIN(size_bytes, (uint64_t)INT64_MAX);
    out->st_blocks = (blkcnt_t)(((uint64_t)out->st_size + 511) / 512);
    if (node_is_image(node)) {
        out->st_blksize = (blksize_t)facts.cluster_bytes;
        if (node.kind != NODE_VMSTATE)
            out->st_blocks = MIN(out->st_blocks, MAX(facts.status.st_blocks, 1));
    }
    return 0;
}

void
tree_get_space(const Tree *tree, TreeSpace *out)
{
    uint64_t cluster_bytes = UINT64_MAX;

    *out = (TreeSpace){.unit_bytes = 4096, .free_bytes = UINT64_MAX};
    if (tree->is_writable)
        out->free_bytes = images_get_free_bytes(tree->images);
    for (unsigned number = 0; images_next(tree->images, &number); number++) {
        g_autoptr(ImageEntry) entry = images_pin_open(tree->images, number);
        struct stat status;

        out->n_images++;
        if (!entry) {
            out->used_bytes += images_get_closed_bytes(tree->images, number);
        } else if (qimg_image_is_writable(entry->image)) {
            qimg_image_get_stat(entry->image, &status);
            out->used_bytes += (uint64_t)status.st_blocks * 512;
            out->free_bytes =
                MIN(out->free_bytes, qimg_image_get_free_bytes(entry->image));
            cluster_bytes =
                MIN(cluster_bytes, qimg_image_get_cluster_bytes(entry->image));
        } else {
            out->used_bytes +=
                (qimg_image_get_size_bytes(entry->image) + 4095) / 4096 * 4096;
        }
    }
    if (cluster_bytes != UINT64_MAX)
        out->unit_bytes = MAX(out->unit_bytes, cluster_bytes);
    if (out->free_bytes == UINT64_MAX)
        out->free_bytes = 0;
}
