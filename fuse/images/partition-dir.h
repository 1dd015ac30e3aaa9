/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The partitions of an image's disk, snapshots and layers, read when they are first asked
 * for. Those of a disk that can be written to are read again after its last writer has
 * gone. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "base/lock.h"
#include "qimg.h"

/* Whose partitions. */
typedef enum {
    PARTITIONS_OF_DISK,
    PARTITIONS_OF_SNAPSHOT,
    PARTITIONS_OF_LAYER,
} PartitionsOf;

/* Where a partition of the disk lay last, and how often that has changed, so that what
 * the kernel keeps of it is not taken for another. */
typedef struct {
    uint64_t start_bytes;
    uint64_t length_bytes;
    unsigned generation;
} PartitionPlace;

typedef struct {
    QimgMutex lock;
    /* Guarded by lock; NULL until they are needed, since there may be many images: */
    GHashTable *lists;      /* by kind and index: QimgPartitions *, or NULL: no table */
    PartitionPlace *places; /* by number, up to QIMG_MAX_PARTITION_NUMBER */
    unsigned version;       /* of the disk's table */
    unsigned n_writers;     /* open files that can change the disk */
} PartitionDirCache;

void partition_dir_cache_init(PartitionDirCache *cache);
void partition_dir_cache_clear(PartitionDirCache *cache);

/* The partitions of @image's disk, or of its layer @index, or of the snapshot @serial,
 * which @index stands for; NULL where it has no table. Free with qimg_partitions_unref.
 * Any thread; the first time it reads. */
QimgPartitions *partition_dir_get(PartitionDirCache *cache, QimgImage *image,
                                  PartitionsOf of, unsigned index, uint32_t serial);

/* Opens the disk, snapshot @number or layer @number; NULL with @error set. */
QimgImage *partition_dir_open_whole(QimgImage *image, PartitionsOf of, unsigned number,
                                    GError **error);

/* The partition that is shown as @number: not the place of logical ones; NULL where there
 * is none. Owned by @list. */
const QimgPartition *partition_dir_find(const QimgPartitions *list, unsigned number);

/* As partition_dir_find, the first one with @number or a higher one. */
const QimgPartition *partition_dir_next(const QimgPartitions *list, unsigned number);

/* How often the disk's partition of that number has been another one. */
unsigned partition_dir_get_generation(PartitionDirCache *cache, unsigned number);

/* How often the disk's table may have been another one. */
unsigned partition_dir_get_version(PartitionDirCache *cache);

/* Somebody can change the disk from now on, or could until now. */
void partition_dir_add_writer(PartitionDirCache *cache);
void partition_dir_remove_writer(PartitionDirCache *cache);

/* The image may be another one than when its tables were read. */
void partition_dir_forget(PartitionDirCache *cache);

/* Whether the disk is known to have a table. Reads nothing. */
bool partition_dir_is_known(PartitionDirCache *cache);

/* The disk was changed by somebody who has not opened it. */
void partition_dir_note_change(PartitionDirCache *cache);
