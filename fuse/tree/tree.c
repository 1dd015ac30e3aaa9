/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The nodes of a mount, computed from its images: names, parents, children. */
#include "tree/tree.h"

#include <errno.h>
#include <string.h>

#include "images/names.h"

/* The unit of positions in a directory. */
#define POSITIONS_PER_PLACE 32u

_Static_assert(N_NODE_KINDS <= POSITIONS_PER_PLACE, "each kind has a position");

static const struct {
    NodeKind parent;
    bool is_directory;
    bool is_of_image; /* the parent has one for each image: @name follows the image's */
    const char *name; /* NULL: depends on a number */
} kinds[N_NODE_KINDS] = {
    [NODE_ROOT] = {NODE_ROOT, true, false, NULL},
    [NODE_DISK] = {NODE_ROOT, false, true, ".raw"},
    [NODE_SNAPSHOTS] = {NODE_ROOT, true, true, ".snapshots"},
    [NODE_SNAPSHOT] = {NODE_SNAPSHOTS, true, false, NULL},
    [NODE_SNAPSHOT_DISK] = {NODE_SNAPSHOT, false, false, "disk.raw"},
    [NODE_VMSTATE] = {NODE_SNAPSHOT, false, false, "vmstate"},
    [NODE_SNAPSHOT_INFO] = {NODE_SNAPSHOT, false, false, "info.json"},
    [NODE_CONTROL] = {NODE_ROOT, true, false, ".qcowfs"},
    [NODE_CONTROL_IMAGE] = {NODE_CONTROL, true, true, ""},
    [NODE_INFO] = {NODE_CONTROL_IMAGE, false, false, "info.json"},
    [NODE_MAP] = {NODE_CONTROL_IMAGE, false, false, "map.json"},
    [NODE_LAYERS] = {NODE_CONTROL_IMAGE, true, false, "layers"},
    [NODE_LAYER] = {NODE_LAYERS, false, false, NULL},
    [NODE_BITMAPS] = {NODE_CONTROL_IMAGE, true, false, "bitmaps"},
    [NODE_BITMAP] = {NODE_BITMAPS, false, false, NULL},
    [NODE_STATS] = {NODE_CONTROL, false, false, STATS_NAME},
    [NODE_ERRORS] = {NODE_CONTROL, false, false, ERRORS_NAME},
    [NODE_PARTITIONS] = {NODE_ROOT, true, true, ".partitions"},
    [NODE_PARTITION] = {NODE_PARTITIONS, false, false, NULL},
    [NODE_PARTITIONS_INFO] = {NODE_PARTITIONS, false, false, "info.json"},
    [NODE_SNAPSHOT_PARTITIONS] = {NODE_SNAPSHOT, true, false, "disk.partitions"},
    [NODE_SNAPSHOT_PARTITION] = {NODE_SNAPSHOT_PARTITIONS, false, false, NULL},
    [NODE_SNAPSHOT_PARTITIONS_INFO] = {NODE_SNAPSHOT_PARTITIONS, false, false,
                                       "info.json"},
    [NODE_LAYER_PARTITIONS] = {NODE_LAYERS, true, false, NULL},
    [NODE_LAYER_PARTITION] = {NODE_LAYER_PARTITIONS, false, false, NULL},
    [NODE_LAYER_PARTITIONS_INFO] = {NODE_LAYER_PARTITIONS, false, false, "info.json"},
};

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

bool
node_is_directory(Node node)
{
    return kinds[node.kind].is_directory;
}

bool
node_is_image(Node node)
{
    return node.kind == NODE_DISK || node.kind == NODE_SNAPSHOT_DISK ||
           node.kind == NODE_VMSTATE || node.kind == NODE_LAYER ||
           node_is_partition(node);
}

bool
node_is_of_image(Node node)
{
    NodeKind kind = node.kind;

    while (kinds[kind].parent != kind && !kinds[kind].is_of_image)
        kind = kinds[kind].parent;
    return kinds[kind].is_of_image;
}

/* Whether the image has @node: a snapshot, a node in one, or a layer. */
static int
check_in_image(const Tree *tree, Node node)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(SnapshotDir) dir = NULL;
    const QimgSnapshot *snapshot;
    int err = tree_pin(tree, node, &entry);

    if (err)
        return err;
    if (node.kind == NODE_LAYER)
        return node.index < qimg_image_get_n_layers(entry->image) ? 0 : -ENOENT;
    dir = image_entry_get_snapshots(entry);
    snapshot = snapshot_dir_find(dir, node.index - entry->first_index, NULL);
    if (!snapshot || (node.kind == NODE_VMSTATE && snapshot->vm_state_bytes == 0))
        return -ENOENT;
    return 0;
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
    case NODE_LAYER:
        return check_in_image(tree, node);
    case NODE_BITMAP:
        return tree_check_bitmap(tree, node);
    default:
        return node.index == 0 && node.part == 0 ? 0 : -ENOENT;
    }
}

Node
tree_parent(Node node)
{
    Node parent = {.kind = kinds[node.kind].parent};

    if (node_is_of_image(parent))
        parent.image_index = node.image_index;
    if (parent.kind == NODE_SNAPSHOT || parent.kind == NODE_SNAPSHOT_PARTITIONS ||
        parent.kind == NODE_LAYER_PARTITIONS)
        parent.index = node.index;
    return parent;
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
    if (!kinds[node.kind].is_of_image)
        return g_strdup(kinds[node.kind].name);
    image_name = images_get_name(tree->images, node.image_index);
    return image_name ? g_strconcat(image_name, kinds[node.kind].name, NULL) : NULL;
}

static Node
snapshot_node(const ImageEntry *entry, Node parent, const QimgSnapshot *snapshot)
{
    return (Node){.kind = NODE_SNAPSHOT,
                  .image_index = parent.image_index,
                  .index = entry->first_index + snapshot->serial};
}

/* As tree_child, for a directory of snapshots, in which positions are indices. */
static int
snapshot_at(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
            char **name_out)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(SnapshotDir) dir = NULL;
    const QimgSnapshot *snapshot;
    uint64_t first;
    unsigned place;
    int err;

    if (*position > UINT32_MAX)
        return -ENOENT;
    err = tree_pin(tree, parent, &entry);
    if (err)
        return err;
    first = MAX(*position, entry->first_index);
    dir = image_entry_get_snapshots(entry);
    place = snapshot_dir_lower_bound(dir, (uint32_t)(first - entry->first_index));
    snapshot = qimg_snapshots_get(dir->list, place);
    if (!snapshot)
        return -ENOENT;
    *child_out = snapshot_node(entry, parent, snapshot);
    *name_out = g_strdup(dir->names->pdata[place]);
    *position = (uint64_t)child_out->index + 1;
    return 0;
}

/* The child of @kind at @place in @parent, for a listing. @place: the number of an image
 * or a layer, else 0. */
static int
child_at(const Tree *tree, Node parent, NodeKind kind, unsigned place, Node *child_out)
{
    Node child = parent;
    int err;

    child.kind = kind;
    if (kind == NODE_ROOT || kinds[kind].parent != parent.kind)
        return -ENOENT;
    if (kinds[kind].is_of_image)
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
        return snapshot_at(tree, parent, position, child_out, name_out);
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

static int
lookup_snapshot(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(SnapshotDir) dir = NULL;
    const QimgSnapshot *snapshot;
    int err = tree_pin(tree, parent, &entry);

    if (err)
        return err;
    dir = image_entry_get_snapshots(entry);
    snapshot = snapshot_dir_find_name(dir, name);
    if (!snapshot)
        return -ENOENT;
    *child_out = snapshot_node(entry, parent, snapshot);
    return 0;
}

/* As tree_lookup, for children that exist per image: there may be many. */
static bool
lookup_of_image(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    for (NodeKind kind = 0; kind < N_NODE_KINDS; kind++) {
        g_autofree char *image_name = NULL;
        unsigned number;

        if (!kinds[kind].is_of_image || kinds[kind].parent != parent.kind ||
            !g_str_has_suffix(name, kinds[kind].name))
            continue;
        image_name = g_strndup(name, strlen(name) - strlen(kinds[kind].name));
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

    if (tree_parse_number(name, ".raw", &child.index))
        child.kind = NODE_LAYER;
    else if (tree_parse_number(name, ".partitions", &child.index))
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
            return kinds[own[i]].name;
    }
    return name;
}

int
tree_lookup(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    if (parent.kind == NODE_SNAPSHOTS) /* there may be many */
        return lookup_snapshot(tree, parent, name, child_out);
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

        if (kind == NODE_ROOT || kinds[kind].parent != parent.kind ||
            g_strcmp0(kinds[kind].name, name) != 0 || kinds[kind].is_of_image)
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

        if (!kinds[kind].is_of_image)
            continue;
        name = g_strconcat(image_name, kinds[kind].name, NULL);
        func(tree_inode_of(tree, (Node){.kind = kinds[kind].parent}), name, user);
    }
}
