/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>

#include "partition/source.h"

/* The identified content of a partition; owned strings, NULL: unknown. */
typedef struct {
    char *usage; /* "filesystem", "crypto", "raid", "other" */
    char *type;
    char *version;
    char *label;
    char *uuid;
} PartitionContent;

/* Identifies the content of the partition @source; false if unknown. Reads at most 3 MiB.
 * Clear with partition_content_clear. */
bool partition_content_probe(const PartitionSource *source, PartitionContent *out);
void partition_content_clear(PartitionContent *content);
