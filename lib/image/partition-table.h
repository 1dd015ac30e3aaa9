/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The partitions of a disk: the list that qimg.h speaks of, and what reads it from bytes
 * that need not be those of an image. */
#pragma once

#include <stdatomic.h>

#include "base/types.h"
#include "qimg.h"

/* What a table is read from. */
typedef struct {
    /* Reads bytes that lie within the size; 0 or a negated errno value. */
    QimgErrno (*read)(void *user, uint64_t offset_bytes, void *buffer,
                      size_t length_bytes);
    void *user;
    uint64_t size_bytes;
} PartitionSource;

typedef enum {
    PARTITION_TABLE_MBR,
    PARTITION_TABLE_GPT,
} PartitionTableKind;

struct QimgPartitions {
    atomic_uint refs; /* atomic; all else is const once it is read */
    PartitionTableKind kind;
    unsigned sector_bytes;
    char *disk_id;    /* NULL: none */
    GArray *items;    /* QimgPartition, in the order of their numbers */
    GPtrArray *notes; /* char *: what was left out or cannot be trusted, and why */
};

/* Reads the table; NULL where there is none. Threads: any; costs a few reads of at most
 * 4 MiB, and one for each logical partition. */
QimgPartitions *partition_table_read(const PartitionSource *source);

/* What a partition holds, by its content; strings are static or owned, NULL: unknown. */
typedef struct {
    char *usage; /* "filesystem", "crypto", "raid", "other" */
    char *type;
    char *version;
    char *label;
    char *uuid;
} PartitionContent;

/* image/partition-content.c: looks into what @part shows; false where nothing is known.
 * Reads at most 3 MiB. Clear with partition_content_clear. */
bool partition_content_probe(QimgImage *part, PartitionContent *out);
void partition_content_clear(PartitionContent *content);
