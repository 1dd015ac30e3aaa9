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
 *     L1 entries, refcounts and the reserve change under the lock of refcount/alloc.h.
 *
 * And T1, T2 of format/table-file.h. */
#pragma once

#include "codec/qcow2-bitmaps.h"
#include "codec/qcow2-geometry.h"
#include "codec/qcow2-header.h"
#include "format/table-file.h"
#include "transform/compress.h"

/* Each of these is defined beside its functions, so that no other code can name its
 * fields. */
typedef struct Qcow2HeaderState Qcow2HeaderState; /* layer/header-io.c */
typedef struct Qcow2Alloc Qcow2Alloc;             /* refcount/alloc-state.h */
typedef struct Qcow2Pending Qcow2Pending;         /* refcount/pending.c */
typedef struct Qcow2DataZeros Qcow2DataZeros;     /* write/data-zeros.c */
typedef struct Qcow2Tracker Qcow2Tracker;         /* bitmap/tracker.c */

typedef struct Qcow2 {
    QimgFormat base;

    /* ---- const after open: for all ---- */
    Qcow2Geometry geometry;
    unsigned slice_words; /* words of an L2 slice */
    QimgCodec codec;
    bool has_luks_extension;
    uint64_t luks_offset, luks_bytes; /* the LUKS header and key material, untrusted */
    bool is_open_for_writing;
    bool is_open_for_check;
    bool has_damaged_bitmaps; /* their extension is */

    /* ---- of a writable layer: changes while the gate is closed, or under the allocation
     * lock; no use for readers ---- */
    const Qcow2Header header; /* changed by qcow2_header_to_change; the incompatible
                                 features are those at open: see layer/header-io.h */
    uint64_t snapshot_table_bytes;
    Qcow2BitmapsExtension bitmaps; /* no bitmaps: all 0 */
    uint64_t bitmaps_extension_at; /* its data in the file; 0: none */

    /* ---- with locks of their own; owned, NULL in read-only layers ---- */
    Qcow2HeaderState *header_state;
    Qcow2Alloc *alloc;
    Qcow2Pending *pending;      /* NULL for check, too */
    Qcow2DataZeros *data_zeros; /* NULL for check, too */
    Qcow2Tracker *tracker;      /* NULL: there are no bitmaps, or they are given up */
} Qcow2;
