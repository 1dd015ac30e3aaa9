/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a layer's file ends: what lies beyond it is damage, not zeros, since a cut image
 * must not pass for an empty one. */
#pragma once

#include <stdatomic.h>

#include "storage/storage.h"

typedef struct {
    QimgStorage *file; /* const; the layer's */
    /* atomic, relaxed: the file's length, rounded up to a sector; looked up again when
     * something seems to lie beyond it, since a running VM's file grows */
    _Atomic uint64_t end_bytes;
} FileEnd;

/* Looks up where @file ends. Errors: those of the storage; -EFBIG. */
QimgErrno file_end_init(FileEnd *end, QimgStorage *file) QIMG_MUST_CHECK;

/* The end as it was last looked up. */
static inline uint64_t
file_end_get(const FileEnd *end)
{
    return atomic_load_explicit(&end->end_bytes, memory_order_relaxed);
}

/* As file_end_is_before, of what lies beyond the end as it was last looked up. */
bool file_end_is_still_before(FileEnd *end, uint64_t host_offset);

/* Whether @host_offset lies beyond the end. Threads: any; no lock is taken. */
static inline bool
file_end_is_before(FileEnd *end, uint64_t host_offset)
{
    return host_offset >= file_end_get(end) && file_end_is_still_before(end, host_offset);
}

/* How many of the @length_bytes from @in_cluster_bytes on, in clusters of @cluster_bytes
 * that lie in a row from @host_offset on, belong to clusters that begin before the end:
 * the last one may be cut. 0: none. Threads: as file_end_is_before. */
uint64_t file_end_clip_clusters(FileEnd *end, uint64_t host_offset,
                                uint64_t in_cluster_bytes, uint64_t cluster_bytes,
                                uint64_t length_bytes);

/* Tells of a change of the file's length. */
static inline void
file_end_set(FileEnd *end, uint64_t end_bytes)
{
    atomic_store_explicit(&end->end_bytes, end_bytes, memory_order_relaxed);
}
