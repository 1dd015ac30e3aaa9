/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of partitions behind the public functions. */
#pragma once

#include <stdatomic.h>

#include "qimg.h"

typedef enum {
    PARTITION_TABLE_MBR,
    PARTITION_TABLE_GPT,
} PartitionTableKind;

struct QimgPartitions {
    atomic_uint refs; /* atomic; everything else is const once the table is read */
    PartitionTableKind kind;
    unsigned sector_bytes;
    char *disk_id;    /* NULL: none */
    GArray *items;    /* QimgPartition, in the order of their numbers */
    GPtrArray *notes; /* char *: omitted or untrustworthy parts, and why */
};
