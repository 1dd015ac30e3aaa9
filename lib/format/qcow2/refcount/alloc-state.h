/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of the allocator and of the refcounts, for code that allocates, counts or
 * repairs. */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "format/qcow2/layer/qcow2.h"

#define QCOW2_MAX_RESERVED_RUNS 256u

struct Qcow2Alloc {
    QimgMutex lock;                    /* rank QIMG_RANK_ALLOC */
    _Atomic bool is_active;            /* atomic: the first change has been prepared */
    uint64_t *refcount_table;          /* guarded by lock: host-endian entries */
    uint64_t n_refcount_table_entries; /* guarded by lock */
    uint64_t search_from;              /* guarded by lock: no free cluster below */
    QimgClusters reserve[QCOW2_MAX_RESERVED_RUNS]; /* guarded by lock */
    unsigned n_reserve;                            /* guarded by lock */
    uint64_t next_reserve_bytes;                   /* guarded by lock */
    uint64_t first_file_bytes; /* const once active: the file's length at activation */
};
