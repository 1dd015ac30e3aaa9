/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories of partitions: of a disk, of its snapshots, of its layers. */
#include "tree/tree-partitions.h"

#include <errno.h>
#include <string.h>

#include "tree/tree-snapshots.h"

#define INFO_NAME "info.json"

static PartitionsOf
whose(Node node)
{
    static const PartitionsOf of[] = {PARTITIONS_OF_DISK, PARTITIONS_OF_SNAPSHOT,
                                      PARTITIONS_OF_LAYER};

    return of[(node.kind - NODE_PARTITIONS) / N_IN_PARTITIONS];
}

int
tree_get_partitions(const Tree *tree, ImageEntry *entry, Node node,
                    QimgPartitions **list_out, const QimgPartition **item_out)
{
    PartitionsOf of = whose(node);
    g_autoptr(QimgPartitions) list = NULL;
    const QimgPartition *item = NULL;
    int err = 0;

    if (!tree->shows_partitions)
        return -ENOENT;
    if (of == PARTITIONS_OF_SNAPSHOT)
        err = tree_check_snapshot(tree,
                                  (Node){NODE_SNAPSHOT, node.image_index, node.index, 0});
    if (err)
        return err;
    list = partition_dir_get(&entry->partitions, entry->image, of,
                             of == PARTITIONS_OF_DISK ? 0 : node.index,
                             node.index - entry->first_index);
    if (!list)
        return -ENOENT;
    if (node_is_partition(node)) {
        item = partition_dir_find(list, node.part);
        /* The number may now belong to another partition. */
        if (!item ||
            (of == PARTITIONS_OF_DISK &&
             node.index != partition_dir_get_generation(&entry->partitions, node.part)))
            return -ENOENT;
    }
    *list_out = g_steal_pointer(&list);
    if (item_out)
        *item_out = item;
    return 0;
}

int
tree_check_partitions(const Tree *tree, Node node, bool opens)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(QimgPartitions) list = NULL;
    int err = 0;

    if (!tree->shows_partitions || (node_is_partition(node) != (node.part > 0)) ||
        (whose(node) == PARTITIONS_OF_DISK && !node_is_partition(node) && node.index > 0))
        return -ENOENT;
    if (opens)
        err = tree_pin(tree, node, &entry);
    else if (images_knows_partitions(tree->images, node.image_index))
        return 0;
    else
        entry = images_pin_open(tree->images, node.image_index);
    if (err)
        return err;
    return entry ? tree_get_partitions(tree, entry, node, &list, NULL) : -ENOENT;
}

/* Stores in *@child_out the node of partition @number in directory @parent. */
static void
make_child(ImageEntry *entry, Node parent, unsigned number, Node *child_out)
{
    *child_out = parent;
    child_out->kind = parent.kind + PARTITIONS_PARTITION;
    child_out->part = number;
    if (whose(parent) == PARTITIONS_OF_DISK)
        child_out->index = partition_dir_get_generation(&entry->partitions, number);
}

static void
make_info_child(Node parent, Node *child_out)
{
    *child_out = parent;
    child_out->kind = parent.kind + PARTITIONS_INFO;
}

/* Pins the image of directory @parent, and gets its list. */
static int
pin_list(const Tree *tree, Node parent, ImageEntry **entry_out, QimgPartitions **list_out)
{
    int err = tree_pin(tree, parent, entry_out);

    return err ? err : tree_get_partitions(tree, *entry_out, parent, list_out, NULL);
}

/* Positions are numbers, with 0 for info.json. */
int
tree_child_partition(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
                     char **name_out)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(QimgPartitions) list = NULL;
    const QimgPartition *item;
    int err;

    if (*position > QIMG_MAX_PARTITION_NUMBER)
        return -ENOENT;
    err = pin_list(tree, parent, &entry, &list);
    if (err)
        return err;
    if (*position == 0) {
        make_info_child(parent, child_out);
        *name_out = g_strdup(INFO_NAME);
        *position = 1;
        return 0;
    }
    item = partition_dir_next(list, (unsigned)*position);
    if (!item)
        return -ENOENT;
    make_child(entry, parent, item->number, child_out);
    *name_out = g_strdup_printf("%u.raw", item->number);
    *position = item->number + 1;
    return 0;
}

int
tree_lookup_partition(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(QimgPartitions) list = NULL;
    unsigned number;
    int err = pin_list(tree, parent, &entry, &list);

    if (err)
        return err;
    if (strcmp(name, INFO_NAME) == 0) {
        make_info_child(parent, child_out);
        return 0;
    }
    if (!node_parse_number(name, ".raw", &number) || !partition_dir_find(list, number))
        return -ENOENT;
    make_child(entry, parent, number, child_out);
    return 0;
}

QimgImage *
tree_open_partitions(const Tree *tree, ImageEntry *entry, Node node, GError **error)
{
    g_autoptr(QimgImage) whole = NULL;
    g_autoptr(QimgPartitions) list = NULL;
    const QimgPartition *item;

    if (tree_get_partitions(tree, entry, node, &list, &item)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND, "the partition has gone");
        return NULL;
    }
    whole = partition_dir_open_whole(entry->image, whose(node),
                                     whose(node) == PARTITIONS_OF_SNAPSHOT
                                         ? node.index - entry->first_index
                                         : node.index,
                                     error);
    if (!whole || !item)
        return g_steal_pointer(&whole);
    return qimg_image_open_part(whole, item->start_bytes, item->length_bytes, error);
}

char *
tree_partitions_text(const Tree *tree, ImageEntry *entry, Node node, GError **error)
{
    g_autoptr(QimgPartitions) list = NULL;
    g_autoptr(QimgImage) whole = tree_open_partitions(tree, entry, node, error);

    if (!whole)
        return NULL;
    if (tree_get_partitions(tree, entry, node, &list, NULL)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND, "the table has gone");
        return NULL;
    }
    return qimg_partitions_json(list, whole);
}
