/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of partitions behind the public functions. */
#pragma once

#include <stdatomic.h>

#include "qimg.h"

typedef enum {
    PARTITION_TABLE_MBR,
    PARTITION_TABLE_GPT,
    PARTITION_TABLE_OTHER,
} PartitionTableKind;

struct QimgPartitions {
    atomic_uint refs; /* atomic; everything else is const once the table is read */
    PartitionTableKind kind;
    char *other_kind; /* OTHER: libblkid's name, or "dasd" */
    unsigned sector_bytes;
    unsigned first_nested; /* MBR: numbers from here on are of tables in a partition */
    char *disk_id;         /* NULL: none */
    GArray *items;         /* QimgPartition, in the order of their numbers */
    GPtrArray *notes;      /* char *: omitted or untrustworthy parts, and why */
};
