/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a tree can tell and do only where images are open for writing. */
#include <string.h>
#include <sys/stat.h>

#include "names.h"
#include "tree.h"

bool
tree_is_writable(const Tree *tree, Node node)
{
    return node.kind == NODE_DISK &&
           qimg_image_is_writable(tree->images[node.image_index].image);
}

bool
tree_is_live(const Tree *tree, Node node)
{
    switch (node.kind) {
    case NODE_DISK:
    case NODE_INFO:
    case NODE_MAP:
        return qimg_image_is_writable(tree->images[node.image_index].image);
    case NODE_SNAPSHOT_INFO: /* it has the name */
        return qimg_image_can_change_snapshots(tree->images[node.image_index].image);
    case NODE_LAYER: /* those below the first never change */
        return node.index == 0 &&
               qimg_image_is_writable(tree->images[node.image_index].image);
    default:
        return false;
    }
}

int
tree_resize(const Tree *tree, Node node, uint64_t size_bytes)
{
    QimgImage *image = tree->images[node.image_index].image;

    /* Opening with O_TRUNC an empty disk, and what copying programs do at their end. */
    if (size_bytes == qimg_image_get_size_bytes(image))
        return 0;
    return qimg_image_resize(image, size_bytes);
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

bool
tree_create_snapshot(const Tree *tree, Node parent, const char *file_name, GError **error)
{
    QimgImage *image = tree->images[parent.image_index].image;
    g_autofree char *name = snapshot_name_of(file_name, error);

    if (!name || !qimg_image_create_snapshot(image, name, error)) {
        g_prefix_error(error, "%s: ", qimg_image_get_layer_path(image, 0));
        return false;
    }
    return true;
}

bool
tree_delete_snapshot(const Tree *tree, Node node, GError **error)
{
    QimgImage *image = tree->images[node.image_index].image;

    if (!qimg_image_delete_snapshot(image, node.index, error)) {
        g_prefix_error(error, "%s: ", qimg_image_get_layer_path(image, 0));
        return false;
    }
    return true;
}

bool
tree_rename_snapshot(const Tree *tree, Node node, const char *file_name, GError **error)
{
    QimgImage *image = tree->images[node.image_index].image;
    g_autofree char *name = snapshot_name_of(file_name, error);

    if (!name || !qimg_image_rename_snapshot(image, node.index, name, error)) {
        g_prefix_error(error, "%s: ", qimg_image_get_layer_path(image, 0));
        return false;
    }
    return true;
}

bool
tree_get_free_bytes(const Tree *tree, uint64_t *out)
{
    uint64_t least = UINT64_MAX;
    bool has_writable = false;

    for (unsigned i = 0; i < tree->n_images; i++) {
        if (!qimg_image_is_writable(tree->images[i].image))
            continue;
        has_writable = true;
        least = MIN(least, qimg_image_get_free_bytes(tree->images[i].image));
    }
    if (has_writable)
        *out = least;
    return has_writable;
}

uint64_t
tree_get_used_bytes(const Tree *tree, unsigned image_index)
{
    QimgImage *image = tree->images[image_index].image;
    struct stat status;

    if (!qimg_image_is_writable(image))
        return (qimg_image_get_size_bytes(image) + 4095) / 4096 * 4096;
    qimg_image_get_stat(image, &status);
    return (uint64_t)status.st_blocks * 512;
}

uint64_t
tree_get_cluster_bytes(const Tree *tree)
{
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < tree->n_images; i++)
        least = MIN(least, qimg_image_get_cluster_bytes(tree->images[i].image));
    return least;
}

bool
tree_flush(const Tree *tree, GError **error)
{
    bool is_good = true;

    for (unsigned i = 0; i < tree->n_images; i++) {
        QimgImage *image = tree->images[i].image;
        int err = qimg_image_is_writable(image) ? qimg_image_flush(image) : 0;

        if (err && is_good)
            g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                        "%s: what was written last may be lost: %s (check the image and "
                        "its file system)",
                        qimg_image_get_layer_path(image, 0), g_strerror(-err));
        is_good &= err == 0;
    }
    return is_good;
}
