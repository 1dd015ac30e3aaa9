/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tree/tree-snapshots.h"

#include <errno.h>

const QimgSnapshot *
tree_snapshot_of(ImageEntry *entry, Node node, SnapshotDir **dir_out, GError **error)
{
    const QimgSnapshot *snapshot;

    *dir_out = image_entry_get_snapshots(entry);
    snapshot = snapshot_dir_find(*dir_out, node.index - entry->first_index, NULL);
    if (!snapshot)
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND, "the snapshot has gone");
    return snapshot;
}

int
tree_check_snapshot(const Tree *tree, Node node)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(SnapshotDir) dir = NULL;
    const QimgSnapshot *snapshot;
    int err = tree_pin(tree, node, &entry);

    if (err)
        return err;
    dir = image_entry_get_snapshots(entry);
    snapshot = snapshot_dir_find(dir, node.index - entry->first_index, NULL);
    if (!snapshot || (node.kind == NODE_VMSTATE && snapshot->vm_state_bytes == 0))
        return -ENOENT;
    return 0;
}

static Node
snapshot_node(const ImageEntry *entry, Node parent, const QimgSnapshot *snapshot)
{
    return (Node){.kind = NODE_SNAPSHOT,
                  .image_index = parent.image_index,
                  .index = entry->first_index + snapshot->serial};
}

/* Positions are indices. */
int
tree_child_snapshot(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
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
    *name_out = g_strdup(dir->files.names->pdata[place]);
    *position = (uint64_t)child_out->index + 1;
    return 0;
}

int
tree_lookup_snapshot(const Tree *tree, Node parent, const char *name, Node *child_out)
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
