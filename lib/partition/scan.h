/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "partition/source.h"
#include "qimg.h"

/* Reads the partition table in @source; NULL if there is none. Free with
 * qimg_partitions_unref. Threads: any; costs a few reads of at most 4 MiB, and one for
 * each logical partition. */
QimgPartitions *partition_scan(const PartitionSource *source);
