/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tree of nodes: the files of the mount with names, inode numbers and attributes. It
 * is computed from the images; nodes are values and inode numbers their encoding, so
 * nothing is counted, locked or forgotten.
 *
 * Functions that need a closed image open it. They return 0 or a negated errno for the
 * user of the file: -ENOENT if the tree has no such node, -ESTALE if its image has gone
 * (the kernel then repeats the lookup), or the value of images_errno for an image that
 * cannot be opened. */
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
    NODE_BITMAPS,       /* … bitmaps/ */
    NODE_BITMAP,        /* … BITMAP.json */
    NODE_STATS,         /* .qcowfs/stats.json */
    NODE_ERRORS,        /* .qcowfs/errors.json, if there are directories of images */
    /* Each kind of directory of partitions is followed by its two other kinds in this
     * order. */
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
    unsigned image_index; /* for a node of an image: the image's number; else 0 */
    /* A snapshot: serial number plus first_index. A layer, a bitmap: its number. A
     * partition of the disk, which may be written to: how often the number has changed
     * its partition. Else 0. */
    unsigned index;
    unsigned part; /* the partition's number; else 0 */
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

/* Makes the tree of @images; the caller keeps them, and they must outlive it. */
Tree *tree_new(Images *images, const Options *options, bool is_single_file);
void tree_free(Tree *tree);

/* Converts to and from inode numbers; 1 is the root. tree_node_of fails for a number
 * without a node. */
uint64_t tree_inode_of(const Tree *tree, Node node);
int tree_node_of(const Tree *tree, uint64_t inode, Node *node_out);

/* Together with the inode number, distinguishes successive nodes of the same number. */
uint64_t tree_get_generation(const Tree *tree, Node node);

/* Whether the tree has @node. */
int tree_check(const Tree *tree, Node node);

/* Pins the image of @node; see images_pin. */
int tree_pin(const Tree *tree, Node node, ImageEntry **entry_out);

bool node_is_directory(Node node);

/* Whether the node belongs to an image. */
bool node_is_of_image(Node node);

/* Whether the node shows bytes of a disk or VM state. */
bool node_is_image(Node node);

/* tree-partitions.c: the nodes of partitions, of all three kinds. */

/* Whether the node is a directory of partitions, or in one. */
bool node_is_of_partitions(Node node);

/* Whether the node shows the bytes of a partition. */
bool node_is_partition(Node node);

/* Whether @kind is a directory of partitions. */
bool node_kind_is_partitions(NodeKind kind);

/* The partitions for a node of partitions, whose image is pinned: -ENOENT if there is no
 * table, or the partition has gone. *@item_out (may be NULL): for a partition's node the
 * partition, owned by the list; else NULL. Free the list with qimg_partitions_unref. */
int tree_get_partitions(const Tree *tree, ImageEntry *entry, Node node,
                        QimgPartitions **list_out, const QimgPartition **item_out);

/* As tree_check for such a node. @opens: may open the image for that. */
int tree_check_partitions(const Tree *tree, Node node, bool opens);

/* As tree_child and tree_lookup, for a directory of partitions. */
int tree_child_partition(const Tree *tree, Node parent, uint64_t *position,
                         Node *child_out, char **name_out);
int tree_lookup_partition(const Tree *tree, Node parent, const char *name,
                          Node *child_out);

/* For a node of partitions, whose image is pinned: opens the disk, snapshot or layer, or
 * the partition itself. NULL with @error set. */
QimgImage *tree_open_partitions(const Tree *tree, ImageEntry *entry, Node node,
                                GError **error);

/* As tree_text, for a node whose image is pinned. */
char *tree_partitions_text(const Tree *tree, ImageEntry *entry, Node node,
                           GError **error);

/* tree-bitmaps.c: the directory of bitmaps. */

/* As tree_check, tree_child and tree_lookup, for NODE_BITMAP and its parent. */
int tree_check_bitmap(const Tree *tree, Node node);
int tree_child_bitmap(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
                      char **name_out);
int tree_lookup_bitmap(const Tree *tree, Node parent, const char *name, Node *child_out);

/* Opens the layer with the bitmap; its image is pinned. NULL with @error set. */
QimgImage *tree_open_bitmap_layer(ImageEntry *entry, Node node, GError **error);

/* Makes a reader of the bitmap as it is now; @layer is its layer, which the reader
 * borrows, and *@layer_out the layer's number. NULL with @error set. */
QimgBitmapReader *tree_read_bitmap(ImageEntry *entry, Node node, QimgImage *layer,
                                   unsigned *layer_out, GError **error);

/* Parses a file name of the form "NUMBER@suffix". */
bool tree_parse_number(const char *name, const char *suffix, unsigned *number_out);

/* The child of directory @parent called @name. */
int tree_lookup(const Tree *tree, Node parent, const char *name, Node *child_out);

/* The parent directory; the root's is the root. */
Node tree_parent(Node node);

/* The first child of directory @parent at or after @position and its name (free with
 * g_free); stores in *@position the next possible position. -ENOENT past the last child.
 * A child keeps its position while others come and go. */
int tree_child(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
               char **name_out);

/* Calls @func for each directory that has a child for the image called @image_name, with
 * its inode number and the child's name. */
void tree_list_names(const Tree *tree, const char *image_name,
                     void (*func)(uint64_t parent_inode, const char *name, void *user),
                     void *user);

/* The attributes of a node. */
int tree_stat(const Tree *tree, Node node, struct stat *out);

/* The text of NODE_SNAPSHOT_INFO, or about partitions; the image is pinned. Free with
 * g_free. NULL with @error set. Other texts are longer: see control-text.h. */
char *tree_text(const Tree *tree, ImageEntry *entry, Node node, GError **error);

/* Opens the image behind a file that shows bytes of a disk: a new handle, or NULL with
 * @error set. *@entry_out is its pinned image: unpin it after closing the handle. */
QimgImage *tree_open_image(const Tree *tree, Node node, ImageEntry **entry_out,
                           GError **error);

/* The values for statfs. For closed images less is known. */
typedef struct {
    uint64_t free_bytes; /* by which all writable images can certainly grow */
    uint64_t
        used_bytes; /* allocated by writable images; plus the disk sizes of the others */
    uint64_t unit_bytes; /* a page; for writing, the smallest cluster if larger */
    unsigned n_images;
} TreeSpace;

void tree_get_space(const Tree *tree, TreeSpace *out);
