/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inode numbers: 1 for the root, else 2 + the encoded fields of the node. The low bits of
 * each field come first, so that except in unusual mounts numbers fit in 32 bits, the
 * limit of some programs. */
#include "tree/tree-inode.h"

#include <errno.h>

typedef enum { FIELD_KIND, FIELD_IMAGE, FIELD_INDEX, FIELD_PART, N_FIELDS } Field;

static const struct {
    Field field;
    unsigned n_bits;
} layout[] = {
    {FIELD_KIND, 5},   {FIELD_IMAGE, 10}, {FIELD_INDEX, 10}, {FIELD_PART, 6},
    {FIELD_IMAGE, 12}, {FIELD_INDEX, 18}, {FIELD_PART, 2},
};

_Static_assert(QIMG_MAX_PARTITION_NUMBER < 1u << (6 + 2), "a partition has 8 bits");

_Static_assert(N_NODE_KINDS <= 1 << 5, "a kind has 5 bits");
_Static_assert(MAX_IMAGES == 1u << (10 + 12), "an image has 22 bits");

static Node
root_of(const Tree *tree)
{
    return (Node){.kind = tree->is_single_file ? NODE_DISK : NODE_ROOT};
}

uint64_t
tree_inode_of(const Tree *tree, Node node)
{
    uint64_t values[N_FIELDS] = {
        [FIELD_KIND] = node.kind,
        [FIELD_IMAGE] = node.image_index,
        [FIELD_INDEX] = node.index,
        [FIELD_PART] = node.part,
    };
    Node root = root_of(tree);
    uint64_t number = 0;
    unsigned shift = 0;

    if (node.kind == root.kind && node.image_index == 0)
        return 1;
    for (size_t i = 0; i < G_N_ELEMENTS(layout); i++) {
        uint64_t *value = &values[layout[i].field];

        number |= (*value & ((UINT64_C(1) << layout[i].n_bits) - 1)) << shift;
        *value >>= layout[i].n_bits;
        shift += layout[i].n_bits;
    }
    return 2 + number;
}

int
tree_decode_inode(const Tree *tree, uint64_t inode, Node *node_out)
{
    unsigned values[N_FIELDS] = {0}, n_done[N_FIELDS] = {0};
    uint64_t number = inode - 2;

    if (inode == 1) {
        *node_out = root_of(tree);
        return 0;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(layout); i++) {
        unsigned *value = &values[layout[i].field];
        unsigned *n = &n_done[layout[i].field];

        *value |= (unsigned)(number & ((UINT64_C(1) << layout[i].n_bits) - 1)) << *n;
        *n += layout[i].n_bits;
        number >>= layout[i].n_bits;
    }
    if (number != 0 || values[FIELD_KIND] >= N_NODE_KINDS)
        return -ENOENT;
    *node_out = (Node){
        .kind = (NodeKind)values[FIELD_KIND],
        .image_index = values[FIELD_IMAGE],
        .index = values[FIELD_INDEX],
        .part = values[FIELD_PART],
    };
    return 0;
}

uint64_t
tree_get_generation(const Tree *tree, Node node)
{
    return node_is_of_image(node) ? images_get_generation(tree->images, node.image_index)
                                  : 0;
}
