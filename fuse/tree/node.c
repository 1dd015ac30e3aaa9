/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tree/node.h"

#include <string.h>

#include "images/names.h"

static const NodeTraits kinds[N_NODE_KINDS] = {
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

_Static_assert(NODE_LAYER_PARTITIONS_INFO - NODE_PARTITIONS + 1 == 3 * N_IN_PARTITIONS,
               "the order of NodeKind");

const NodeTraits *
node_kind_get(NodeKind kind)
{
    return &kinds[kind];
}

bool
node_is_of_partitions(Node node)
{
    return node.kind >= NODE_PARTITIONS && node.kind <= NODE_LAYER_PARTITIONS_INFO;
}

static NodeKind
directory_kind(NodeKind kind)
{
    return kind - (kind - NODE_PARTITIONS) % N_IN_PARTITIONS;
}

bool
node_is_partition(Node node)
{
    return node_is_of_partitions(node) &&
           node.kind == directory_kind(node.kind) + PARTITIONS_PARTITION;
}

bool
node_kind_is_partitions(NodeKind kind)
{
    return node_is_of_partitions((Node){.kind = kind}) && kind == directory_kind(kind);
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

Node
node_parent(Node node)
{
    Node parent = {.kind = kinds[node.kind].parent};

    if (node_is_of_image(parent))
        parent.image_index = node.image_index;
    if (parent.kind == NODE_SNAPSHOT || parent.kind == NODE_SNAPSHOT_PARTITIONS ||
        parent.kind == NODE_LAYER_PARTITIONS)
        parent.index = node.index;
    return parent;
}

bool
node_parse_number(const char *name, const char *suffix, unsigned *number_out)
{
    char again[64];
    char *end;
    guint64 number;

    if (!g_ascii_isdigit(*name))
        return false;
    number = g_ascii_strtoull(name, &end, 10);
    if (number > UINT32_MAX)
        return false;
    g_snprintf(again, sizeof again, "%u%s", (unsigned)number, suffix);
    *number_out = (unsigned)number;
    return strcmp(again, name) == 0; /* no leading zeros, no suffix */
}
