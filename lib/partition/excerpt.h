/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libblkid needs a file, so it gets one in memory: of a source's length, and empty except
 * for the regions in which file systems and partition tables identify themselves. */
#pragma once

#include <stddef.h>

#include "partition/source.h"

/* Returns a descriptor of a file with the first 2 MiB and the last MiB of @source, and
 * 64 KiB at each of the @n_more offsets @more_bytes; unreadable bytes are zeros. -1 if it
 * cannot be made. The caller closes it. */
int partition_excerpt_make(const PartitionSource *source, const uint64_t *more_bytes,
                           size_t n_more);
