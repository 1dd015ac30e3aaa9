/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tree of nodes: which files there are, their names, inode numbers and attributes. It
 * is computed from the images; nodes are values and inode numbers their encoding, so
 * there is nothing to count, lock or forget.
 *
 * Functions that look into an image open it where it is not open. They return 0 or a
 * negated errno for whoever uses the file: -ENOENT where the tree has no such node,
 * -ESTALE where its image has gone (the kernel then looks the name up again), or what
 * images_errno says of an image that cannot be opened. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "images/images.h"
#include "mount/options.h"
#include "qimg.h"
#include "tree/text-sizes.h"

typedef enum {
    NODE_ROOT,
    NODE_DISK,          /* NAME.raw */
    NODE_SNAPSHOTS,     /* NAME.snapshots/ */
    NODE_SNAPSHOT,      /* NAME.snapshots/SNAPSHOT/ */
    NODE_SNAPSHOT_DISK, /* … disk.raw */
    NODE_VMSTATE,       /* … vmstate */
    NODE_SNAPSHOT_INFO, /* … info.json */
    NODE_CONTROL,       /* .qcowfs/ */
    NODE_CONTROL_IMAGE, /* .qcowfs/NAME/ */
    NODE_INFO,          /* … info.json */
    NODE_MAP,           /* … map.json */
    NODE_LAYERS,        /* … layers/ */
    NODE_LAYER,         /* … layers/N.raw */
    NODE_STATS,         /* .qcowfs/stats.json */
    NODE_ERRORS,        /* .qcowfs/errors.json, where there are directories of images */
    /* Each directory of partitions has its three kinds in this order. */
    NODE_PARTITIONS,               /* NAME.partitions/ */
    NODE_PARTITION,                /* … N.raw */
    NODE_PARTITIONS_INFO,          /* … info.json */
    NODE_SNAPSHOT_PARTITIONS,      /* NAME.snapshots/SNAPSHOT/disk.partitions/ */
    NODE_SNAPSHOT_PARTITION,       /* … N.raw */
    NODE_SNAPSHOT_PARTITIONS_INFO, /* … info.json */
    NODE_LAYER_PARTITIONS,         /* .qcowfs/NAME/layers/N.partitions/ */
    NODE_LAYER_PARTITION,          /* … N.raw */
    NODE_LAYER_PARTITIONS_INFO,    /* … info.json */
    N_NODE_KINDS,
} NodeKind;

typedef struct {
    NodeKind kind;
    unsigned image_index; /* the image's number, of nodes that belong to one; else 0 */
    /* The snapshot's (serial number and first_index), or the layer's; of a partition of
     * the disk, which may be written to, how often another one had its number; else 0 */
    unsigned index;
    unsigned part; /* the number of a partition; else 0 */
} Node;

typedef struct {
    Images *images;
    TextSizes *sizes;    /* of control files */
    bool is_writable;    /* images are opened for writing */
    bool is_single_file; /* the root is the disk of image 0 */
    bool shows_partitions;
    uid_t uid;
    gid_t gid;
    mode_t umask;
} Tree;

/* Makes the tree of @images, which stay the caller's and outlive it. */
Tree *tree_new(Images *images, const Options *options, bool is_single_file);
void tree_free(Tree *tree);

/* Inode numbers: 1 is the root. tree_node_of fails for a number that no node has. */
uint64_t tree_inode_of(const Tree *tree, Node node);
int tree_node_of(const Tree *tree, uint64_t inode, Node *node_out);

/* Goes with the inode number: tells nodes apart that had the same one. */
uint64_t tree_get_generation(const Tree *tree, Node node);

/* Whether the tree has @node. */
int tree_check(const Tree *tree, Node node);

/* Pins the image of @node, see images_pin. */
int tree_pin(const Tree *tree, Node node, ImageEntry **entry_out);

bool node_is_directory(Node node);

/* Whether the node belongs to one of the images. */
bool node_is_of_image(Node node);

/* Whether the node shows bytes of a disk or VM state. */
bool node_is_image(Node node);

/* tree-partitions.c: the nodes of partitions, of all three kinds. */

/* Whether the node is a directory of partitions, or in one. */
bool node_is_of_partitions(Node node);

/* Whether the node shows the bytes of a partition. */
bool node_is_partition(Node node);

/* Whether @kind is that of the directories of partitions. */
bool node_kind_is_partitions(NodeKind kind);

/* The partitions of a node of theirs, whose image is pinned: -ENOENT where there is no
 * table, or the partition has gone. *@item_out: the partition, owned by the list, of a
 * partition's node; else NULL. May be NULL. Free the list with qimg_partitions_unref. */
int tree_get_partitions(const Tree *tree, ImageEntry *entry, Node node,
                        QimgPartitions **list_out, const QimgPartition **item_out);

/* As tree_check of such a node. @opens: its image is opened for that where it is not. */
int tree_check_partitions(const Tree *tree, Node node, bool opens);

/* As tree_child and tree_lookup, of a directory of partitions. */
int tree_child_partition(const Tree *tree, Node parent, uint64_t *position,
                         Node *child_out, char **name_out);
int tree_lookup_partition(const Tree *tree, Node parent, const char *name,
                          Node *child_out);

/* Opens the disk, snapshot or layer of a node of partitions, whose image is pinned, or
 * the partition itself. NULL with @error set. */
QimgImage *tree_open_partitions(const Tree *tree, ImageEntry *entry, Node node,
                                GError **error);

/* As tree_text, of a node whose image is pinned. */
char *tree_partitions_text(const Tree *tree, ImageEntry *entry, Node node,
                           GError **error);

/* The number in a file name that is "NUMBER@suffix", and nothing else. */
bool tree_parse_number(const char *name, const char *suffix, unsigned *number_out);

/* The child of directory @parent called @name. */
int tree_lookup(const Tree *tree, Node parent, const char *name, Node *child_out);

/* The parent directory; the root's is the root. */
Node tree_parent(Node node);

/* The first child of directory @parent at @position or behind it, its name (free with
 * g_free), and in *@position where the next one may be; -ENOENT past the last one. A
 * child keeps its position while others come and go. */
int tree_child(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
               char **name_out);

/* Calls @func with the inode numbers of all directories that have a child for the image
 * called @image_name, and the child's name. */
void tree_list_names(const Tree *tree, const char *image_name,
                     void (*func)(uint64_t parent_inode, const char *name, void *user),
                     void *user);

/* Whether the node's name stays as long as the mount. */
bool tree_is_lasting(const Tree *tree, Node node);

/* The attributes of a node. */
int tree_stat(const Tree *tree, Node node, struct stat *out);

/* The text of NODE_SNAPSHOT_INFO, or about partitions, of an image that is pinned; free
 * with g_free. NULL with @error set. The others are longer: see control-text.h. */
char *tree_text(const Tree *tree, ImageEntry *entry, Node node, GError **error);

/* Opens the image behind a file that shows bytes of a disk: a new handle, or NULL with
 * @error set. *@entry_out is its image, pinned: unpin it after closing the handle. */
QimgImage *tree_open_image(const Tree *tree, Node node, ImageEntry **entry_out,
                           GError **error);

/* What statfs tells. Of images that are not open, less is known. */
typedef struct {
    uint64_t free_bytes; /* what all writable images can surely grow by */
    uint64_t
        used_bytes; /* what they occupy; of one that is not writable, its disk's size */
    uint64_t unit_bytes; /* a page; for writing, the smallest cluster if that is larger */
    unsigned n_images;
} TreeSpace;

void tree_get_space(const Tree *tree, TreeSpace *out);

/* Whether the node can be written to: the disk file of an image open for writing. Opens
 * nothing; false where the image is not open. */
bool tree_is_writable(const Tree *tree, Node node);

/* Whether the node changes while the mount lasts, in its attributes or bytes. Opens
 * nothing. */
bool tree_is_live(const Tree *tree, Node node);

/* Whether the name of a node may come and go with the table of a disk that changes. */
bool tree_may_vanish(const Tree *tree, Node node);

/* Sets the size of a writable node. Returns 0 or a negated errno. */
int tree_resize(const Tree *tree, Node node, uint64_t size_bytes);

/* Changes of the snapshots in directory @parent (NODE_SNAPSHOTS), or of @node
 * (NODE_SNAPSHOT); @name is a file name. Errors: as qimg_image_create_snapshot and the
 * others; USAGE for a name that no snapshot has as a file. */
bool tree_create_snapshot(const Tree *tree, Node parent, const char *name,
                          GError **error);
bool tree_delete_snapshot(const Tree *tree, Node node, GError **error);
bool tree_rename_snapshot(const Tree *tree, Node node, const char *name, GError **error);
