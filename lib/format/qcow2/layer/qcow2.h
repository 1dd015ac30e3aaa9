/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private state of an open qcow2 layer, and the rules of safe changes.
 *
 * I1  A read-only layer is never written, and only @file_end_bytes changes after open:
 *     maps and reads from any number of threads need no lock.
 *
 * I2  Tables are read only through the chain's table cache, and never trusted: each entry
 *     is decoded (codec/qcow2-tables.h) on each use.
 *
 * I3  Offsets beyond the end of the file are damage, not zeros: a truncated image must
 *     not be taken for an empty one. (QEMU reads zeros there.) The last cluster may be
 *     truncated.
 *
 * Writing. When a write is acknowledged its entries are in the file, or pending in memory
 * that outlives the process (T1), so that a process that dies loses nothing, and there is
 * no dirty table to flush, to evict in order or to bound. A crash of the machine does no
 * harm, because nothing is written to the file before the data that it relies on are
 * durable:
 *
 * W1  Clusters are taken from a reserve (refcount/alloc.c): their refcounts are 1 and
 *     their bytes zeros, durably, before an entry in the file refers to any of them. A
 *     crash leaks the rest of the reserve.
 *
 * W2  An entry of a reachable table is written only after its data are durable, except if
 *     both the disk and the new cluster read as zeros and the cluster was prepared
 *     durably: a disk may then hold any mixture of old and new after a crash.
 *
 * W3  A cluster whose last entry was replaced is a pending free (refcount/pending.c): its
 *     refcount is lowered only when the new entry is durable, and no request in flight
 *     may still use the old one; only from then on can it be found free.
 *
 * W4  The guest range of an entry that is being changed is announced (format/inflight.h);
 *     L1 entries, refcounts and the reserve change under alloc_lock.
 *
 * And T1, T2 of format/table-file.h. */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "codec/qcow2-bitmaps.h"
#include "codec/qcow2-geometry.h"
#include "codec/qcow2-header.h"
#include "format/table-file.h"
#include "transform/compress.h"

#define QCOW2_MAX_RESERVED_RUNS 256u

typedef struct Qcow2Pending Qcow2Pending; /* refcount/pending.c */
typedef struct Qcow2Tracker Qcow2Tracker; /* bitmap/tracker.c */

typedef struct Qcow2 {
    QimgFormat base;
    /* const after open; of a writable layer, incompatible_features: header_lock,
     * autoclear_features: see activate.c */
    Qcow2Header header;
    Qcow2Geometry geometry; /* const after open */
    unsigned slice_words;   /* const after open: words of an L2 slice */
    QimgCodec codec;        /* const after open */

    /* The rest: writable layers only. */
    QimgMutex alloc_lock;  /* rank QIMG_RANK_ALLOC */
    QimgMutex header_lock; /* rank QIMG_RANK_HEADER */
    bool is_marked; /* guarded by header_lock: marked corrupt since open; never reset */
    _Atomic bool is_active;            /* atomic: the first change has been prepared */
    bool is_open_for_writing;          /* const after open */
    bool is_open_for_check;            /* const after open */
    uint64_t *refcount_table;          /* guarded by alloc_lock: host-endian entries */
    uint64_t n_refcount_table_entries; /* guarded by alloc_lock */
    uint64_t search_from;              /* guarded by alloc_lock: no free cluster below */
    QimgClusters reserve[QCOW2_MAX_RESERVED_RUNS]; /* guarded by alloc_lock */
    unsigned n_reserve;                            /* guarded by alloc_lock */
    uint64_t next_reserve_bytes;                   /* guarded by alloc_lock */
    /* changed with the gate closed: refcounts or flags are wrong, and nothing corrects
     * them before the next open */
    bool stays_dirty;
    /* The range of an external data file that growing the disk has zeroed, durably; it
     * may reach behind the disk's end, and no part of it without an entry was written
     * since. Grows while the gate is closed; the start: atomic, UINT64_MAX: none */
    _Atomic uint64_t data_zeros_start_bytes;
    uint64_t data_zeros_end_bytes;
    uint64_t first_file_bytes; /* const once active: the file's length at activation */
    uint64_t snapshot_table_bytes; /* const after open */
    Qcow2BitmapsExtension bitmaps; /* changes with the gate closed; no bitmaps: all 0 */
    bool has_damaged_bitmaps;      /* const after open: their extension is */
    uint64_t bitmaps_extension_at; /* const after open: its data in the file; 0: none */

    /* owned; const after open; NULL: there are no bitmaps, or they are given up */
    Qcow2Tracker *tracker;
    Qcow2Pending
        *pending; /* owned, has a lock of its own; NULL unless open for writing */
} Qcow2;

/* Whether the image has an external data file that is the disk, byte for byte. */
static inline bool
qcow2_has_raw_data_file(const Qcow2 *q)
{
    return (q->header.autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW) != 0;
}

/* Precedes every change: see qimg_format_activate. */
static inline QimgErrno
qcow2_begin_change(Qcow2 *q)
{
    return qimg_format_activate(&q->base, &q->alloc_lock, &q->is_active);
}
