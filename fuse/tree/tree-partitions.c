/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories of partitions: of a disk, of its snapshots, of its layers. */
#include <errno.h>
#include <string.h>

#include "tree/tree.h"

#define INFO_NAME "info.json"

/* Each of the three kinds of directory is followed by the kinds of its children. */
enum { IN_DIRECTORY, IN_PARTITION, IN_INFO, N_IN };

_Static_assert(NODE_LAYER_PARTITIONS_INFO - NODE_PARTITIONS + 1 == 3 * N_IN,
               "the order of NodeKind");

bool
node_is_of_partitions(Node node)
{
    return node.kind >= NODE_PARTITIONS && node.kind <= NODE_LAYER_PARTITIONS_INFO;
}

static PartitionsOf
whose(Node node)
{
    static const PartitionsOf of[] = {PARTITIONS_OF_DISK, PARTITIONS_OF_SNAPSHOT,
                                      PARTITIONS_OF_LAYER};

    return of[(node.kind - NODE_PARTITIONS) / N_IN];
}

static NodeKind
directory_kind(NodeKind kind)
{
    return kind - (kind - NODE_PARTITIONS) % N_IN;
}

bool
node_is_partition(Node node)
{
    return node_is_of_partitions(node) &&
           node.kind == directory_kind(node.kind) + IN_PARTITION;
}

bool
node_kind_is_partitions(NodeKind kind)
{
    return node_is_of_partitions((Node){.kind = kind}) && kind == directory_kind(kind);
}

bool
tree_parse_number(const char *name, const char *suffix, unsigned *number_out)
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
        err = tree_check(tree, (Node){NODE_SNAPSHOT, node.image_index, node.index, 0});
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
    child_out->kind = parent.kind + IN_PARTITION;
    child_out->part = number;
    if (whose(parent) == PARTITIONS_OF_DISK)
        child_out->index = partition_dir_get_generation(&entry->partitions, number);
}

static void
make_info_child(Node parent, Node *child_out)
{
    *child_out = parent;
    child_out->kind = parent.kind + IN_INFO;
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
    err = tree_pin(tree, parent, &entry);
    if (!err)
        err = tree_get_partitions(tree, entry, parent, &list, NULL);
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
    int err = tree_pin(tree, parent, &entry);

    if (!err)
        err = tree_get_partitions(tree, entry, parent, &list, NULL);
    if (err)
        return err;
    if (strcmp(name, INFO_NAME) == 0) {
        make_info_child(parent, child_out);
        return 0;
    }
    if (!tree_parse_number(name, ".raw", &number) || !partition_dir_find(list, number))
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
