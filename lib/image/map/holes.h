/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which parts of a disk are known to hold no data. */
#pragma once

#include <glib.h>

#include "base/types.h"

typedef struct HoleMap HoleMap;

/* A map of which parts of a disk of @size_bytes are known to hold no data. All but
 * new and free from any thread. */
HoleMap *hole_map_new(uint64_t size_bytes);
void hole_map_free(HoleMap *map);
/* Notes that [@start, @end) holds no data; UINT64_MAX is the end of the disk. */
void hole_map_add(HoleMap *map, uint64_t start, uint64_t end);
/* The first offset from @offset on that may hold data; past the disk's end if none may.
 */
uint64_t hole_map_skip(const HoleMap *map, uint64_t offset);
