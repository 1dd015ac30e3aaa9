/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tree of nodes: which files there are, their names, inode numbers and attributes. It
 * is computed from the images; nodes are values and inode numbers their encoding, so
 * there is nothing to count, lock or forget. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "options.h"
#include "qimg.h"
#include "snapshot-dir.h"

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
    N_NODE_KINDS,
} NodeKind;

typedef struct {
    NodeKind kind;
    unsigned image_index;
    unsigned index; /* the snapshot's serial number, or the layer's */
} Node;

typedef struct {
    QimgImage *image; /* owned */
    char *name;       /* without ".raw" */
    SnapshotDirCache snapshots;
} TreeImage;

typedef struct {
    TreeImage *images; /* const after tree_new */
    unsigned n_images;
    bool is_single_file; /* the root is the first image's disk */
    uid_t uid;
    gid_t gid;
    mode_t umask;
} Tree;

/* Makes the tree of @images (QimgImage *, taken over on success) that were opened from
 * @options->images. Errors: USAGE for two images of one name. */
Tree *tree_new(GPtrArray *images, const Options *options, bool is_single_file,
               GError **error);
void tree_free(Tree *tree);

/* Inode numbers: 1 is the root. tree_node_of gives false for a number that no node has.
 */
uint64_t tree_inode_of(const Tree *tree, Node node);
bool tree_node_of(const Tree *tree, uint64_t inode, Node *node_out);

bool node_is_directory(Node node);

/* Whether the node's text is made when it is opened, so that it has no size before. */
bool node_is_stream(Node node);

/* The child of directory @parent called @name. */
bool tree_lookup(const Tree *tree, Node parent, const char *name, Node *child_out);

/* The parent directory; the root's is the root. */
Node tree_parent(Node node);

/* The first child of directory @parent at @position or behind it, its name (free with
 * g_free), and in *@position where the next one may be; false past the last one. A child
 * keeps its position while others come and go. */
bool tree_child(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
                char **name_out);

/* The attributes of a node. */
void tree_stat(const Tree *tree, Node node, struct stat *out);

/* The text of NODE_INFO, NODE_SNAPSHOT_INFO or NODE_STATS; free with g_free. */
char *tree_text(const Tree *tree, Node node);

/* Opens the image behind a file that shows bytes of a disk: a new handle, or NULL with
 * @error set. */
QimgImage *tree_open_image(const Tree *tree, Node node, GError **error);

/* Whether the node shows bytes of a disk or VM state. */
bool node_is_image(Node node);

/* Whether the node can be written to: the disk file of an image open for writing. */
bool tree_is_writable(const Tree *tree, Node node);

/* Whether the node changes while the mount lasts, in its attributes or bytes. */
bool tree_is_live(const Tree *tree, Node node);

/* Sets the size of a writable node. Returns 0 or a negated errno. */
int tree_resize(const Tree *tree, Node node, uint64_t size_bytes);

/* Changes of the snapshots in directory @parent (NODE_SNAPSHOTS), or of @node
 * (NODE_SNAPSHOT); @name is a file name. Errors: as qimg_image_create_snapshot and the
 * others; USAGE for a name that no snapshot has as a file. */
bool tree_create_snapshot(const Tree *tree, Node parent, const char *name,
                          GError **error);
bool tree_delete_snapshot(const Tree *tree, Node node, GError **error);
bool tree_rename_snapshot(const Tree *tree, Node node, const char *name, GError **error);

/* How many bytes all writable images can surely grow by; false, where none is writable.
 */
bool tree_get_free_bytes(const Tree *tree, uint64_t *out);

/* What image @image_index occupies: of one that is not writable, the size of its disk. */
uint64_t tree_get_used_bytes(const Tree *tree, unsigned image_index);

/* The smallest cluster size. */
uint64_t tree_get_cluster_bytes(const Tree *tree);

/* Brings all that was written to stable storage, as far as possible. False with @error
 * set, which names the first image with which it failed. */
bool tree_flush(const Tree *tree, GError **error);
