/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nodes: the files of the mount as values, and the traits of their kinds. */
#pragma once

#include <glib.h>
#include <stdbool.h>

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
    NodeKind parent;
    bool is_directory;
    bool is_of_image; /* the parent has one for each image: @name follows the image's */
    const char *name; /* NULL: depends on a number */
} NodeTraits;

const NodeTraits *node_kind_get(NodeKind kind);

bool node_is_directory(Node node);

/* Whether the node belongs to an image. */
bool node_is_of_image(Node node);

/* Whether the node shows bytes of a disk or VM state. */
bool node_is_image(Node node);

/* The parent directory; the root's is the root. */
Node node_parent(Node node);

/* Each of the three kinds of directory of partitions is followed by the kinds of its
 * children. */
enum { PARTITIONS_DIRECTORY, PARTITIONS_PARTITION, PARTITIONS_INFO, N_IN_PARTITIONS };

/* Whether the node is a directory of partitions, or in one. */
bool node_is_of_partitions(Node node);

/* Whether the node shows the bytes of a partition. */
bool node_is_partition(Node node);

/* Whether @kind is a directory of partitions. */
bool node_kind_is_partitions(NodeKind kind);

/* Parses a file name of the form "NUMBER@suffix". */
bool node_parse_number(const char *name, const char *suffix, unsigned *number_out);
