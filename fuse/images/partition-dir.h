/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The partitions of an image's disk, snapshots and layers, read on first use. Those of a
 * writable disk are read again after its last writer has gone. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "base/lock.h"
#include "qimg.h"

/* The owner of the partitions. */
typedef enum {
    PARTITIONS_OF_DISK,
    PARTITIONS_OF_SNAPSHOT,
    PARTITIONS_OF_LAYER,
} PartitionsOf;

/* The last location of a partition of the disk, and how often it has changed, so that the
 * kernel's cache of one partition is not used for another. */
typedef struct {
    uint64_t start_bytes;
    uint64_t length_bytes;
    unsigned generation;
} PartitionPlace;

typedef struct {
    QimgMutex lock;
    /* Guarded by lock; NULL until needed, since there may be many images: */
    GHashTable *lists;      /* by kind and index: QimgPartitions *, or NULL: no table */
    PartitionPlace *places; /* by number, up to QIMG_MAX_PARTITION_NUMBER */
    unsigned version;       /* of the disk's table */
    unsigned n_writers;     /* open files that can change the disk */
} PartitionDirCache;

void partition_dir_cache_init(PartitionDirCache *cache);
void partition_dir_cache_clear(PartitionDirCache *cache);

/* The partitions of @image's disk, of its layer @index, or of the snapshot @serial with
 * node index @index; NULL if it has no table. Free with qimg_partitions_unref. Any
 * thread; the first call reads. */
QimgPartitions *partition_dir_get(PartitionDirCache *cache, QimgImage *image,
                                  PartitionsOf of, unsigned index, uint32_t serial);

/* Opens the disk, snapshot @number or layer @number; NULL with @error set. */
QimgImage *partition_dir_open_whole(QimgImage *image, PartitionsOf of, unsigned number,
                                    GError **error);

/* The partition shown as @number, except the extended one; NULL if there is none. Owned
 * by @list. */
const QimgPartition *partition_dir_find(const QimgPartitions *list, unsigned number);

/* As partition_dir_find, the first one with @number or a higher one. */
const QimgPartition *partition_dir_next(const QimgPartitions *list, unsigned number);

/* How often the disk's partition with that number has changed. */
unsigned partition_dir_get_generation(PartitionDirCache *cache, unsigned number);

/* How often the disk's table may have changed. */
unsigned partition_dir_get_version(PartitionDirCache *cache);

/* A writer can change the disk from now on, or could until now. */
void partition_dir_add_writer(PartitionDirCache *cache);
void partition_dir_remove_writer(PartitionDirCache *cache);

/* Call if the image may have changed since its tables were read. */
void partition_dir_forget(PartitionDirCache *cache);

/* Whether the disk is known to have a table. Reads nothing. */
bool partition_dir_is_known(PartitionDirCache *cache);

/* The disk was changed by a caller that has not opened it. */
void partition_dir_note_change(PartitionDirCache *cache);
