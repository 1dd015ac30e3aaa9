/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The nodes of a mount, computed from its images: names and children. */
#include "tree/tree-lookup.h"

#include <errno.h>
#include <string.h>

#include "images/images-open.h"
#include "tree/tree-bitmaps.h"
#include "tree/tree-inode.h"
#include "tree/tree-partitions.h"
#include "tree/tree-snapshots.h"

/* The unit of positions in a directory. */
#define POSITIONS_PER_PLACE 32u

_Static_assert(N_NODE_KINDS <= POSITIONS_PER_PLACE, "each kind has a position");

static int
check_layer(const Tree *tree, Node node)
{
    g_autoptr(ImageEntry) entry = NULL;
    int err = tree_pin(tree, node, &entry);

    if (err)
        return err;
    return node.index < qimg_image_get_n_layers(entry->image) ? 0 : -ENOENT;
}

int
tree_check(const Tree *tree, Node node)
{
    if (node_is_of_image(node) && !images_has(tree->images, node.image_index))
        return -ESTALE;
    if (node_is_of_partitions(node))
        return tree_check_partitions(tree, node, true);
    switch (node.kind) {
    case NODE_SNAPSHOT:
    case NODE_SNAPSHOT_DISK:
    case NODE_SNAPSHOT_INFO:
    case NODE_VMSTATE:
        return tree_check_snapshot(tree, node);
    case NODE_LAYER:
        return check_layer(tree, node);
    case NODE_BITMAP:
        return tree_check_bitmap(tree, node);
    default:
        return node.index == 0 && node.part == 0 ? 0 : -ENOENT;
    }
}

/* The name of a child of a directory other than NODE_SNAPSHOTS; NULL if it has gone. */
static char *
name_of(const Tree *tree, Node node)
{
    g_autofree char *image_name = NULL;

    if (node.kind == NODE_LAYER)
        return g_strdup_printf("%u.raw", node.index);
    if (node.kind == NODE_LAYER_PARTITIONS)
        return g_strdup_printf("%u.partitions", node.index);
    if (!node_kind_get(node.kind)->is_of_image)
        return g_strdup(node_kind_get(node.kind)->name);
    image_name = images_get_name(tree->images, node.image_index);
    return image_name ? g_strconcat(image_name, node_kind_get(node.kind)->name, NULL)
                      : NULL;
}

/* The child of @kind at @place in @parent, for a listing. @place: the number of an image
 * or a layer, else 0. */
static int
child_at(const Tree *tree, Node parent, NodeKind kind, unsigned place, Node *child_out)
{
    Node child = parent;
    int err;

    child.kind = kind;
    if (kind == NODE_ROOT || node_kind_get(kind)->parent != parent.kind)
        return -ENOENT;
    if (node_kind_get(kind)->is_of_image)
        child.image_index = place;
    else if (parent.kind == NODE_LAYERS)
        child.index = place;
    else if (place != 0)
        return -ENOENT;
    /* Listing names alone opens no image. */
    err = kind == NODE_PARTITIONS ? tree_check_partitions(tree, child, false)
                                  : tree_check(tree, child);
    if (!err)
        *child_out = child;
    return err == -ESTALE ? -ENOENT : err;
}

/* Advances *@place to the next place at which @parent may have children. */
static bool
next_place(const Tree *tree, Node parent, unsigned *place)
{
    switch (parent.kind) {
    case NODE_ROOT:
    case NODE_CONTROL:
        return *place == 0 || images_next(tree->images, place);
    case NODE_LAYERS:
        return tree_check(tree, (Node){NODE_LAYER, parent.image_index, *place, 0}) == 0;
    default:
        return *place == 0;
    }
}

int
tree_child(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
           char **name_out)
{
    unsigned place = (unsigned)MIN(*position / POSITIONS_PER_PLACE, UINT32_MAX);
    unsigned first = place;
    NodeKind kind = (NodeKind)(*position % POSITIONS_PER_PLACE);

    if (parent.kind == NODE_SNAPSHOTS)
        return tree_child_snapshot(tree, parent, position, child_out, name_out);
    if (node_kind_is_partitions(parent.kind))
        return tree_child_partition(tree, parent, position, child_out, name_out);
    if (parent.kind == NODE_BITMAPS)
        return tree_child_bitmap(tree, parent, position, child_out, name_out);
    for (; next_place(tree, parent, &place); place++, kind = 0) {
        if (place != first)
            kind = 0;
        for (; kind < N_NODE_KINDS; kind++) {
            int err = child_at(tree, parent, kind, place, child_out);

            if (!err)
                *name_out = name_of(tree, *child_out);
            if (!err && *name_out) {
                *position = (uint64_t)place * POSITIONS_PER_PLACE + kind + 1;
                return 0;
            }
            if (err && err != -ENOENT)
                return err;
        }
    }
    return -ENOENT;
}

/* As tree_lookup, for children that exist per image: there may be many. */
static bool
lookup_of_image(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    for (NodeKind kind = 0; kind < N_NODE_KINDS; kind++) {
        g_autofree char *image_name = NULL;
        unsigned number;

        if (!node_kind_get(kind)->is_of_image ||
            node_kind_get(kind)->parent != parent.kind ||
            !g_str_has_suffix(name, node_kind_get(kind)->name))
            continue;
        image_name = g_strndup(name, strlen(name) - strlen(node_kind_get(kind)->name));
        if (images_find(tree->images, image_name, &number)) {
            *child_out = (Node){.kind = kind, .image_index = number};
            return true;
        }
    }
    return false;
}

static int
lookup_layer(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    Node child = {.image_index = parent.image_index};
    int err;

    if (node_parse_number(name, ".raw", &child.index))
        child.kind = NODE_LAYER;
    else if (node_parse_number(name, ".partitions", &child.index))
        child.kind = NODE_LAYER_PARTITIONS;
    else
        return -ENOENT;
    err = tree_check(tree, child);
    if (!err)
        *child_out = child;
    return err;
}

/* The fixed name meant by @name: in a snapshot, the disk and its partitions may also be
 * called by the image's name. */
static const char *
fixed_name(const Tree *tree, Node parent, const char *name)
{
    static const NodeKind own[] = {NODE_SNAPSHOT_DISK, NODE_SNAPSHOT_PARTITIONS};
    static const NodeKind of_image[] = {NODE_DISK, NODE_PARTITIONS};

    for (size_t i = 0; parent.kind == NODE_SNAPSHOT && i < G_N_ELEMENTS(own); i++) {
        Node node = {.kind = of_image[i], .image_index = parent.image_index};
        g_autofree char *image_name = name_of(tree, node);

        if (g_strcmp0(name, image_name) == 0)
            return node_kind_get(own[i])->name;
    }
    return name;
}

int
tree_lookup(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    if (parent.kind == NODE_SNAPSHOTS) /* there may be many */
        return tree_lookup_snapshot(tree, parent, name, child_out);
    if (parent.kind == NODE_LAYERS)
        return lookup_layer(tree, parent, name, child_out);
    if (node_kind_is_partitions(parent.kind))
        return tree_lookup_partition(tree, parent, name, child_out);
    if (parent.kind == NODE_BITMAPS)
        return tree_lookup_bitmap(tree, parent, name, child_out);
    if (lookup_of_image(tree, parent, name, child_out))
        return child_out->kind == NODE_PARTITIONS ? tree_check(tree, *child_out) : 0;
    name = fixed_name(tree, parent, name);
    for (NodeKind kind = 0; kind < N_NODE_KINDS; kind++) {
        Node child = parent;
        int err;

        if (kind == NODE_ROOT || node_kind_get(kind)->parent != parent.kind ||
            g_strcmp0(node_kind_get(kind)->name, name) != 0 ||
            node_kind_get(kind)->is_of_image)
            continue;
        child.kind = kind;
        err = tree_check(tree, child);
        if (!err)
            *child_out = child;
        return err;
    }
    return -ENOENT;
}

void
tree_list_names(const Tree *tree, const char *image_name,
                void (*func)(uint64_t parent_inode, const char *name, void *user),
                void *user)
{
    for (NodeKind kind = 0; kind < N_NODE_KINDS; kind++) {
        g_autofree char *name = NULL;

        if (!node_kind_get(kind)->is_of_image)
            continue;
        name = g_strconcat(image_name, node_kind_get(kind)->name, NULL);
        func(tree_inode_of(tree, (Node){.kind = node_kind_get(kind)->parent}), name,
             user);
    }
}

int
tree_node_of(const Tree *tree, uint64_t inode, Node *node_out)
{
    int err = tree_decode_inode(tree, inode, node_out);

    return err ? err : tree_check(tree, *node_out);
}
