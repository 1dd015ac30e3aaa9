/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private state of an open QED layer, and the rules of safe changes. Spec: qed.
 *
 * A cluster is in use if a table refers to it, and new ones are taken at the end of the
 * file; there are no refcounts.
 *
 * I1  A read-only layer is never written, and only file_end_bytes changes after open:
 *     maps and reads from any number of threads need no lock.
 *
 * I2  An entry is an offset within the file or damage: a truncated image must not be
 *     taken for an empty one, nor may growing turn such entries into references to
 *     another's clusters. So all tables are checked before the first change (activate.c).
 *
 * Writing, beside T1 and T2 of format/table-file.h:
 *
 * E1  NEED_CHECK is set, durably, before the first cluster is taken, and cleared when all
 *     is durable at the end.
 *
 * E2  Clusters are taken from a reserve: the file reaches behind them and their bytes are
 *     zeros, durably, before an entry in the file refers to any of them. A crash leaks
 *     the rest of the reserve.
 *
 * E3  An entry is written only after its data are durable, except if both the disk and
 *     the new cluster read as zeros.
 *
 * E4  The guest range of an entry that is being changed is announced (format/inflight.h);
 *     L1 entries and the reserve change under alloc_lock. */
#pragma once

#include "base/lock.h"
#include "codec/qed-header.h"
#include "format/table-file.h"

typedef struct {
    QimgFormat base;
    QedHeader header;    /* const after open; a writable layer's features: alloc_lock */
    unsigned entry_bits; /* const after open: a table has 2^this entries */
    unsigned l1_shift;   /* const after open: guest offset to L1 index */

    /* The rest: only writable layers and those open for a check. */
    QimgMutex alloc_lock;      /* rank QIMG_RANK_ALLOC */
    bool has_lock;             /* const after open */
    _Atomic bool is_active;    /* atomic: the first change has been prepared */
    uint64_t first_file_bytes; /* const once active: the file's length at activation */
    uint64_t first_cluster; /* const once active: the first free cluster at activation */
    /* [next, end) is the reserve; [first_cluster, next) is taken. */
    uint64_t next_cluster;       /* guarded by alloc_lock */
    uint64_t end_cluster;        /* guarded by alloc_lock */
    uint64_t next_reserve_bytes; /* guarded by alloc_lock */
    GArray *returned;            /* guarded by alloc_lock: QimgClusters: zeros again */
} Qed;

/* Precedes every change: see qimg_format_activate. */
static inline QimgErrno
qed_begin_change(Qed *qed)
{
    return qimg_format_activate(&qed->base, &qed->alloc_lock, &qed->is_active);
}
