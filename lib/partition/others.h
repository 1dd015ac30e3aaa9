/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Partition tables other than GPT and MBR, read by libblkid in an excerpt: BSD, Sun, SGI,
 * Apple, Atari, and those in a partition of an MBR. */
#pragma once

#include "partition/list.h"
#include "partition/source.h"

/* Adds the partitions of such a table of the whole disk to the empty @list, and names the
 * kind; one that cannot be read is noted. False, with @list unchanged: there is none. */
bool partition_others_add(const PartitionSource *source, QimgPartitions *list);

/* Adds the partitions of tables inside partitions of @list, an MBR's: numbered behind
 * those, as by Linux. */
void partition_others_add_nested(const PartitionSource *source, QimgPartitions *list);
