/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Regions of a disk known to hold no data. */
#pragma once

#include <glib.h>

#include "base/types.h"

typedef struct HoleMap HoleMap;

/* Creates a map for a disk of @size_bytes. All functions but new and free may be called
 * from any thread. */
HoleMap *hole_map_new(uint64_t size_bytes);
void hole_map_free(HoleMap *map);
/* Records that [@start, @end) holds no data; UINT64_MAX is the end of the disk. */
void hole_map_add(HoleMap *map, uint64_t start, uint64_t end);
/* The first offset, from @offset on, that may hold data; past the disk's end if none
 * may. */
uint64_t hole_map_skip(const HoleMap *map, uint64_t offset);
