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
    snapshot_dir_cache_init(&entry->snapshots);
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
        snapshot_dir_cache_clear(&tree->images[i].snapshots);
    }
    g_free(tree->images);
    g_free(tree);
}

static SnapshotDir *
snapshots_of(const Tree *tree, Node node)
{
    TreeImage *entry = &tree->images[node.image_index];

    return snapshot_dir_get(&entry->snapshots, entry->image);
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
    g_autoptr(SnapshotDir) dir = NULL;
    const QimgSnapshot *snapshot;

    if (node.kind >= N_NODE_KINDS || node.image_index >= tree->n_images)
        return false;
    switch (node.kind) {
    case NODE_SNAPSHOT:
    case NODE_SNAPSHOT_DISK:
    case NODE_SNAPSHOT_INFO:
    case NODE_VMSTATE:
        dir = snapshots_of(tree, node);
        snapshot = snapshot_dir_find(dir, node.index, NULL);
        return snapshot && (node.kind != NODE_VMSTATE || snapshot->vm_state_bytes > 0);
    case NODE_LAYER:
        return node.index < qimg_image_get_n_layers(tree->images[node.image_index].image);
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

/* How many positions @kind has below @parent, kind after kind in the order of NodeKind.
 */
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
    case NODE_LAYER:
        return qimg_image_get_n_layers(entry->image);
    case NODE_VMSTATE:
        return exists(tree, (Node){NODE_VMSTATE, parent.image_index, parent.index});
    default:
        return 1;
    }
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
    case NODE_LAYER:
        return g_strdup_printf("%u.raw", node.index);
    default:
        return g_strdup(kinds[node.kind].name);
    }
}

/* As tree_child, of a directory of snapshots. */
static bool
snapshot_at(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
            char **name_out)
{
    g_autoptr(SnapshotDir) dir = NULL;
    const QimgSnapshot *snapshot;
    unsigned place;

    if (*position > UINT32_MAX)
        return false;
    dir = snapshots_of(tree, parent);
    place = snapshot_dir_lower_bound(dir, (uint32_t)*position);
    snapshot = qimg_snapshots_get(dir->list, place);
    if (!snapshot)
        return false;
    *child_out = (Node){NODE_SNAPSHOT, parent.image_index, snapshot->serial};
    *name_out = g_strdup(dir->names->pdata[place]);
    *position = (uint64_t)snapshot->serial + 1;
    return true;
}

bool
tree_child(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
           char **name_out)
{
    uint64_t first = 0; /* position of the kind */

    if (parent.kind == NODE_SNAPSHOTS)
        return snapshot_at(tree, parent, position, child_out, name_out);
    for (NodeKind kind = 0; kind < N_NODE_KINDS; kind++) {
        uint64_t n = n_positions(tree, parent, kind);

        if (*position < first + n) {
            unsigned number = (unsigned)(*position - first);
            Node child = {kind, parent.image_index, parent.index};

            if (kind == NODE_DISK || kind == NODE_SNAPSHOTS || kind == NODE_CONTROL_IMAGE)
                child.image_index = number;
            else if (kind == NODE_LAYER)
                child.index = number;
            *child_out = child;
            *name_out = name_of(tree, child);
            *position += 1;
            return true;
        }
        first += n;
    }
    return false;
}

bool
tree_lookup(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    Node child;
    char *child_name;

    if (parent.kind == NODE_SNAPSHOTS) { /* there may be many */
        g_autoptr(SnapshotDir) dir = snapshots_of(tree, parent);
        const QimgSnapshot *snapshot = snapshot_dir_find_name(dir, name);

        if (!snapshot)
            return false;
        *child_out = (Node){NODE_SNAPSHOT, parent.image_index, snapshot->serial};
        return true;
    }
    if (parent.kind == NODE_SNAPSHOT) { /* the disk goes by the image's name, too */
        g_autofree char *disk_name =
            g_strconcat(tree->images[parent.image_index].name, ".raw", NULL);

        if (strcmp(name, disk_name) == 0)
            name = kinds[NODE_SNAPSHOT_DISK].name;
    }
    for (uint64_t next = 0; tree_child(tree, parent, &next, &child, &child_name);) {
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
    g_autoptr(SnapshotDir) dir = NULL;
    g_autofree char *text = NULL;
    const QimgSnapshot *snapshot;

    switch (node.kind) {
    case NODE_DISK:
        return qimg_image_get_size_bytes(image);
    case NODE_SNAPSHOT_DISK:
    case NODE_VMSTATE:
        dir = snapshots_of(tree, node);
        snapshot = snapshot_dir_find(dir, node.index, NULL);
        if (!snapshot)
            return 0;
        return node.kind == NODE_VMSTATE ? snapshot->vm_state_bytes
                                         : snapshot->disk_bytes;
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
    if (tree_is_writable(tree, node) ||
        (node.kind == NODE_SNAPSHOTS && qimg_image_can_change_snapshots(image)))
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
    g_autoptr(SnapshotDir) dir = NULL;
    const QimgSnapshot *snapshot;

    switch (node.kind) {
    case NODE_INFO:
        return qimg_image_info_json(image);
    case NODE_SNAPSHOT_INFO:
        dir = snapshots_of(tree, node);
        snapshot = snapshot_dir_find(dir, node.index, NULL);
        return snapshot ? qimg_snapshot_json(snapshot) : NULL;
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
