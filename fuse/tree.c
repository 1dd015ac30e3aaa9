/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The nodes of a mount, computed from its images. */
#include "tree.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "names.h"

/* An inode number is 1 for the root, else kind + 16 * (image + 4096 * index) + 2: small
 * enough for programs with 32-bit inode numbers in all but odd mounts. */
#define MAX_KINDS  16u
#define MAX_IMAGES 4096u

#define STATS_NAME "stats.json"

static const struct {
    NodeKind parent;
    bool is_directory;
    const char *name; /* fixed name; NULL: depends on the image or number */
} kinds[N_NODE_KINDS] = {
    [NODE_ROOT] = {NODE_ROOT, true, NULL},
    [NODE_DISK] = {NODE_ROOT, false, NULL},
    [NODE_SNAPSHOTS] = {NODE_ROOT, true, NULL},
    [NODE_SNAPSHOT] = {NODE_SNAPSHOTS, true, NULL},
    [NODE_SNAPSHOT_DISK] = {NODE_SNAPSHOT, false, "disk.raw"},
    [NODE_VMSTATE] = {NODE_SNAPSHOT, false, "vmstate"},
    [NODE_SNAPSHOT_INFO] = {NODE_SNAPSHOT, false, "info.json"},
    [NODE_CONTROL] = {NODE_ROOT, true, ".qcowfs"},
    [NODE_CONTROL_IMAGE] = {NODE_CONTROL, true, NULL},
    [NODE_INFO] = {NODE_CONTROL_IMAGE, false, "info.json"},
    [NODE_MAP] = {NODE_CONTROL_IMAGE, false, "map.json"},
    [NODE_LAYERS] = {NODE_CONTROL_IMAGE, true, "layers"},
    [NODE_LAYER] = {NODE_LAYERS, false, NULL},
    [NODE_STATS] = {NODE_CONTROL, false, STATS_NAME},
};

_Static_assert(N_NODE_KINDS <= MAX_KINDS, "a kind has four bits of the inode number");

static bool
add_image(Tree *tree, QimgImage *image, const char *path, GError **error)
{
    TreeImage *entry = &tree->images[tree->n_images];
    g_autofree char *name = names_of_image(path);

    for (unsigned i = 0; i < tree->n_images; i++) {
        if (strcmp(tree->images[i].name, name) == 0) {
            g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                        "two images would be shown as %s.raw (mount one of them "
                        "elsewhere, or by a link of another name)",
                        name);
            return false;
        }
    }
    if (strcmp(name, STATS_NAME) == 0) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "the name %s is taken (mount it by a link of another name)", name);
        return false;
    }
    entry->image = image;
    entry->name = g_steal_pointer(&name);
    entry->snapshot_names = names_of_snapshots(image);
    entry->snapshot_by_name = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < entry->snapshot_names->len; i++)
        g_hash_table_insert(entry->snapshot_by_name, entry->snapshot_names->pdata[i],
                            GUINT_TO_POINTER(i));
    tree->n_images++;
    return true;
}

Tree *
tree_new(GPtrArray *images, const Options *options, bool is_single_file, GError **error)
{
    Tree *tree = g_new0(Tree, 1);

    tree->images = g_new0(TreeImage, images->len);
    tree->is_single_file = is_single_file;
    tree->uid = options->uid;
    tree->gid = options->gid;
    tree->umask = options->umask;
    if (images->len > MAX_IMAGES) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "more than %u images (use several mounts)", MAX_IMAGES);
        tree_free(tree);
        return NULL;
    }
    for (guint i = 0; i < images->len; i++) {
        if (!add_image(tree, images->pdata[i], options->images->pdata[i], error)) {
            g_prefix_error(error, "%s: ", (char *)options->images->pdata[i]);
            for (unsigned j = 0; j < tree->n_images; j++)
                tree->images[j].image = NULL; /* stay the caller's */
            tree_free(tree);
            return NULL;
        }
    }
    g_ptr_array_set_free_func(images, NULL);
    return tree;
}

void
tree_free(Tree *tree)
{
    if (!tree)
        return;
    for (unsigned i = 0; i < tree->n_images; i++) {
        qimg_image_close(tree->images[i].image);
        g_free(tree->images[i].name);
        g_hash_table_unref(tree->images[i].snapshot_by_name);
        g_ptr_array_unref(tree->images[i].snapshot_names);
    }
    g_free(tree->images);
    g_free(tree);
}

static Node
root_of(const Tree *tree)
{
    return (Node){.kind = tree->is_single_file ? NODE_DISK : NODE_ROOT};
}

uint64_t
tree_inode_of(const Tree *tree, Node node)
{
    Node root = root_of(tree);

    if (node.kind == root.kind && node.image_index == 0 && node.index == 0)
        return 1;
    return 2 + node.kind +
           MAX_KINDS * (node.image_index + (uint64_t)MAX_IMAGES * node.index);
}

/* Whether the tree has @node. */
static bool
exists(const Tree *tree, Node node)
{
    const TreeImage *entry;

    if (node.kind >= N_NODE_KINDS || node.image_index >= tree->n_images)
        return false;
    entry = &tree->images[node.image_index];
    switch (node.kind) {
    case NODE_SNAPSHOT:
    case NODE_SNAPSHOT_DISK:
    case NODE_SNAPSHOT_INFO:
        return node.index < entry->snapshot_names->len;
    case NODE_VMSTATE:
        return node.index < entry->snapshot_names->len &&
               qimg_image_get_snapshot(entry->image, node.index)->vm_state_bytes > 0;
    case NODE_LAYER:
        return node.index < qimg_image_get_n_layers(entry->image);
    default:
        return node.index == 0;
    }
}

bool
tree_node_of(const Tree *tree, uint64_t inode, Node *node_out)
{
    uint64_t number;

    if (inode == 1) {
        *node_out = root_of(tree);
        return true;
    }
    if (inode < 2)
        return false;
    number = inode - 2;
    if (number / MAX_KINDS / MAX_IMAGES > UINT32_MAX)
        return false;
    *node_out = (Node){
        .kind = (NodeKind)(number % MAX_KINDS),
        .image_index = (unsigned)(number / MAX_KINDS % MAX_IMAGES),
        .index = (unsigned)(number / MAX_KINDS / MAX_IMAGES),
    };
    return exists(tree, *node_out);
}

bool
node_is_directory(Node node)
{
    return kinds[node.kind].is_directory;
}

bool
node_is_stream(Node node)
{
    return node.kind == NODE_MAP || node.kind == NODE_STATS;
}

bool
node_is_image(Node node)
{
    return node.kind == NODE_DISK || node.kind == NODE_SNAPSHOT_DISK ||
           node.kind == NODE_VMSTATE || node.kind == NODE_LAYER;
}

Node
tree_parent(Node node)
{
    Node parent = node;

    parent.kind = kinds[node.kind].parent;
    if (parent.kind != NODE_SNAPSHOT)
        parent.index = 0;
    if (parent.kind == NODE_ROOT || parent.kind == NODE_CONTROL)
        parent.image_index = 0;
    return parent;
}

/* How many children of each kind a directory can have, kind after kind in the order of
 * NodeKind: the number of positions of @kind below @parent. */
static uint64_t
n_positions(const Tree *tree, Node parent, NodeKind kind)
{
    const TreeImage *entry = &tree->images[parent.image_index];

    if (kind == NODE_ROOT || kinds[kind].parent != parent.kind)
        return 0;
    switch (kind) {
    case NODE_DISK:
    case NODE_SNAPSHOTS:
    case NODE_CONTROL_IMAGE:
        return tree->n_images;
    case NODE_SNAPSHOT:
        return entry->snapshot_names->len;
    case NODE_LAYER:
        return qimg_image_get_n_layers(entry->image);
    case NODE_VMSTATE:
        return exists(tree, (Node){NODE_VMSTATE, parent.image_index, parent.index});
    default:
        return 1;
    }
}

static Node
child_at(Node parent, NodeKind kind, uint64_t position)
{
    Node child = {.kind = kind, .image_index = parent.image_index, .index = parent.index};

    if (kind == NODE_DISK || kind == NODE_SNAPSHOTS || kind == NODE_CONTROL_IMAGE)
        child.image_index = (unsigned)position;
    else if (kind == NODE_SNAPSHOT || kind == NODE_LAYER)
        child.index = (unsigned)position;
    return child;
}

static char *
name_of(const Tree *tree, Node node)
{
    const TreeImage *entry = &tree->images[node.image_index];

    switch (node.kind) {
    case NODE_DISK:
        return g_strconcat(entry->name, ".raw", NULL);
    case NODE_SNAPSHOTS:
        return g_strconcat(entry->name, ".snapshots", NULL);
    case NODE_CONTROL_IMAGE:
        return g_strdup(entry->name);
    case NODE_SNAPSHOT:
        return g_strdup(entry->snapshot_names->pdata[node.index]);
    case NODE_LAYER:
        return g_strdup_printf("%u.raw", node.index);
    default:
        return g_strdup(kinds[node.kind].name);
    }
}

bool
tree_child(const Tree *tree, Node parent, uint64_t position, Node *child_out,
           char **name_out)
{
    for (NodeKind kind = 0; kind < N_NODE_KINDS; kind++) {
        uint64_t n = n_positions(tree, parent, kind);

        if (position < n) {
            *child_out = child_at(parent, kind, position);
            *name_out = name_of(tree, *child_out);
            return true;
        }
        position -= n;
    }
    return false;
}

bool
tree_lookup(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    Node child;
    char *child_name;

    if (parent.kind == NODE_SNAPSHOTS) { /* there may be many */
        const TreeImage *entry = &tree->images[parent.image_index];
        gpointer index;

        if (!g_hash_table_lookup_extended(entry->snapshot_by_name, name, NULL, &index))
            return false;
        *child_out = (Node){NODE_SNAPSHOT, parent.image_index, GPOINTER_TO_UINT(index)};
        return true;
    }
    if (parent.kind == NODE_SNAPSHOT) { /* the disk goes by the image's name, too */
        g_autofree char *disk_name =
            g_strconcat(tree->images[parent.image_index].name, ".raw", NULL);

        if (strcmp(name, disk_name) == 0)
            name = kinds[NODE_SNAPSHOT_DISK].name;
    }
    for (uint64_t i = 0; tree_child(tree, parent, i, &child, &child_name); i++) {
        bool is_it = strcmp(child_name, name) == 0;

        g_free(child_name);
        if (is_it) {
            *child_out = child;
            return true;
        }
    }
    return false;
}

static uint64_t
size_of(const Tree *tree, Node node)
{
    QimgImage *image = tree->images[node.image_index].image;
    g_autoptr(QimgImage) layer = NULL;
    g_autofree char *text = NULL;

    switch (node.kind) {
    case NODE_DISK:
        return qimg_image_get_size_bytes(image);
    case NODE_SNAPSHOT_DISK:
        return qimg_image_get_snapshot(image, node.index)->disk_bytes;
    case NODE_VMSTATE:
        return qimg_image_get_snapshot(image, node.index)->vm_state_bytes;
    case NODE_LAYER:
        layer = qimg_image_open_layer(image, node.index, NULL);
        return layer ? qimg_image_get_size_bytes(layer) : 0;
    case NODE_INFO:
    case NODE_SNAPSHOT_INFO:
        text = tree_text(tree, node);
        return text ? strlen(text) : 0;
    default:
        return 0;
    }
}

void
tree_stat(const Tree *tree, Node node, struct stat *out)
{
    QimgImage *image = tree->images[node.image_index].image;
    struct stat status;

    qimg_image_get_stat(image, &status);
    *out = (struct stat){
        .st_ino = tree_inode_of(tree, node),
        .st_mode = node_is_directory(node) ? S_IFDIR | 0555 : S_IFREG | 0444,
        .st_nlink = node_is_directory(node) ? 2 : 1,
        .st_uid = tree->uid,
        .st_gid = tree->gid,
        .st_atim = status.st_atim,
        .st_mtim = status.st_mtim,
        .st_ctim = status.st_ctim,
        .st_blksize = 4096,
    };
    if (tree_is_writable(tree, node))
        out->st_mode |= S_IWUSR;
    out->st_mode &= ~tree->umask;
    /* A damaged size beyond what a file can have; reads stop there, too. */
    out->st_size = (off_t)MIN(size_of(tree, node), (uint64_t)INT64_MAX);
    out->st_blocks = (blkcnt_t)(((uint64_t)out->st_size + 511) / 512);
    if (node_is_image(node)) {
        out->st_blksize = (blksize_t)qimg_image_get_cluster_bytes(image);
        if (node.kind != NODE_VMSTATE)
            out->st_blocks = MIN(out->st_blocks, MAX(status.st_blocks, 1));
    }
}

static char *
stats_text(const Tree *tree)
{
    json_t *all = json_object();
    char *text, *line;

    for (unsigned i = 0; i < tree->n_images; i++) {
        g_autofree char *stats = qimg_image_stats_json(tree->images[i].image);
        g_autofree char *name = g_utf8_make_valid(tree->images[i].name, -1);

        json_object_set_new(all, name, json_loads(stats, 0, NULL));
    }
    text = json_dumps(all, JSON_INDENT(4));
    line = g_strconcat(text ? text : "{}", "\n", NULL);
    free(text);
    json_decref(all);
    return line;
}

char *
tree_text(const Tree *tree, Node node)
{
    QimgImage *image = tree->images[node.image_index].image;

    switch (node.kind) {
    case NODE_INFO:
        return qimg_image_info_json(image);
    case NODE_SNAPSHOT_INFO:
        return qimg_image_snapshot_json(image, node.index);
    case NODE_STATS:
        return stats_text(tree);
    default:
        return NULL;
    }
}

QimgImage *
tree_open_image(const Tree *tree, Node node, GError **error)
{
    QimgImage *image = tree->images[node.image_index].image;

    switch (node.kind) {
    case NODE_SNAPSHOT_DISK:
        return qimg_image_open_snapshot(image, node.index, error);
    case NODE_VMSTATE:
        return qimg_image_open_vmstate(image, node.index, error);
    case NODE_LAYER:
        return qimg_image_open_layer(image, node.index, error);
    default:
        return qimg_image_open_layer(image, 0, error);
    }
}
