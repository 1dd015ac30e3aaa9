/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private state of an open qcow2 layer, and how it is changed safely.
 *
 * I1  A layer that is not writable is never written to, and nothing of it changes after
 *     open but @file_end_bytes: maps and reads from any number of threads need no lock.
 * I2  Tables are read through the chain's table cache only, and never trusted: each entry
 *     is decoded (codec/qcow2-tables.h) each time it is used.
 * I3  What lies beyond the end of the file is damage, not zeros: a cut image must not
 *     pass for an empty one. (QEMU reads zeros there.) The last cluster may be cut.
 *
 * Writing. All metadata are written through: an entry is in the file when the write that
 * made it is acknowledged, so that a process that dies loses nothing, and there is no
 * dirty table to flush, to evict in order or to bound. What makes this safe against a
 * machine that dies is that nothing is written to the file before what it relies on is
 * durable:
 *
 * W1  Clusters are taken from a reserve (alloc.c): their refcounts are 1 and their bytes
 *     zeros, durably, before any of them is used. Dying leaks what is left of it.
 * W2  An entry of a reachable table is written only after the data that it refers to is
 *     durable, except where both the disk and the new cluster read as zeros: then every
 *     mixture of old and new is one that a disk may show.
 * W3  A cluster whose last entry was replaced waits (flush.c): only when the new entry is
 *     durable, and no request is left that may still use the old one, is its refcount
 *     lowered; only from then on can it be found free.
 * W4  The guest range of an entry that is being changed is announced (format/inflight.h);
 *     L1 entries, refcounts and the reserve change under alloc_lock.
 * And T1, T2 of format/table-file.h. */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "codec/qcow2-bitmaps.h"
#include "codec/qcow2-geometry.h"
#include "codec/qcow2-header.h"
#include "format/table-file.h"
#include "format/write-plan.h"
#include "transform/compress.h"

#define QCOW2_MAX_RESERVED_RUNS 256u
#define QCOW2_MAX_FIELD_BYTES   24u

typedef struct {
    QimgFormat base;
    Qcow2Header header;     /* const after open; a writable layer's: see activate.c */
    Qcow2Geometry geometry; /* const after open */
    unsigned slice_words;   /* const after open: words of an L2 slice */
    QimgCodec codec;        /* const after open */

    /* The rest: writable layers only. */
    QimgMutex alloc_lock;     /* rank QIMG_RANK_ALLOC */
    _Atomic bool is_active;   /* atomic: what comes before the first change is done */
    bool is_open_for_writing; /* const after open */
    bool is_open_for_check;   /* const after open */
    uint64_t *refcount_table QIMG_GUARDED_BY(alloc_lock); /* host-endian entries */
    uint64_t n_refcount_table_entries QIMG_GUARDED_BY(alloc_lock);
    uint64_t search_from QIMG_GUARDED_BY(alloc_lock); /* no free cluster lies below */
    QimgClusters reserve[QCOW2_MAX_RESERVED_RUNS] QIMG_GUARDED_BY(alloc_lock);
    unsigned n_reserve QIMG_GUARDED_BY(alloc_lock);
    uint64_t next_reserve_bytes QIMG_GUARDED_BY(alloc_lock);
    /* changed with the gate closed: refcounts or flags are not what they should be, and
     * nobody is going to correct them now */
    bool stays_dirty;
    uint64_t first_file_bytes;     /* const once active: the file's length before */
    uint64_t snapshot_table_bytes; /* const after open */
    Qcow2BitmapsExtension bitmaps; /* const after open; no bitmaps: all 0 */

    QimgMutex pending_lock;                        /* rank QIMG_RANK_PENDING */
    GArray *pending QIMG_GUARDED_BY(pending_lock); /* QimgClusters, W3 */
    uint64_t n_pending_clusters QIMG_GUARDED_BY(pending_lock);
    unsigned n_freeing QIMG_GUARDED_BY(pending_lock); /* flushes with a list of theirs */
    QimgCond freed;                                   /* n_freeing has become 0 */
    _Atomic bool wants_flush; /* atomic, relaxed: much is pending */
} Qcow2;

/* ---- map.c, compressed.c, snapshot.c: reading ---- */

/* QimgDriver.map. */
QimgErrno qcow2_map(QimgFormat *format, const QimgView *view,
                    QimgGuestOffset guest_offset, uint64_t length_bytes,
                    QimgRun *run_out);

/* QimgDriver.read_compressed. */
QimgErrno qcow2_read_compressed(QimgFormat *format, QimgHostOffset host_offset,
                                uint32_t stream_bytes, uint8_t *cluster_out);

/* Reads the snapshot table. Damage ends the list with a warning: the disk itself does not
 * depend on it. */
void qcow2_load_snapshots(Qcow2 *q);

/* QimgDriver.check_snapshot. */
bool qcow2_check_snapshot(QimgFormat *format, const QimgFormatSnapshot *snapshot,
                          QimgGuestOffset *vm_state_out, GError **error);

/* Fills in how many L1 entries of @view the file really holds. */
void qcow2_view_clip_to_file(Qcow2 *q, QimgView *view);

/* bitmaps.c: QimgDriver.list_bitmaps. */
QimgErrno qcow2_list_bitmaps(QimgFormat *format, GArray **bitmaps_out);

/* ---- activate.c: the first change, header fields, the end of writing ---- */

/* Makes the parts of Qcow2 that a writable layer has; refuses images that must not be
 * written to. At open; writes nothing. */
bool qcow2_open_for_writing(Qcow2 *q, GError **error);
void qcow2_close_for_writing(Qcow2 *q);

/* Makes the parts that check and repair need, whatever is wrong with the image. */
void qcow2_open_for_check(Qcow2 *q);

/* QimgDriver.end_writing. */
void qcow2_end_writing(QimgFormat *format);

/* Does, once, what must come before the first change: feature bits, repair of a dirty
 * image, the set of metadata clusters. Called by every change; cheap when done.
 * Threads: any; no lock may be held. Errors: as QimgDriver.plan_write. */
QimgErrno qcow2_activate(Qcow2 *q) QIMG_MUST_CHECK;

/* Writes @n_bytes (at most QCOW2_MAX_FIELD_BYTES) of the header at @position and makes
 * them durable. @bytes are as on disk. Under alloc_lock, or while the gate is closed. */
QimgErrno qcow2_write_header_field(Qcow2 *q, uint64_t position, const void *bytes,
                                   size_t n_bytes) QIMG_MUST_CHECK;

/* Stores the incompatible feature bits, durably. As qcow2_write_header_field. */
QimgErrno qcow2_store_incompatible(Qcow2 *q, uint64_t features) QIMG_MUST_CHECK;

/* Sets or clears the dirty bit, which version 2 lacks. With stays_dirty it is not
 * cleared: who opens the image next repairs it. As qcow2_store_incompatible. */
QimgErrno qcow2_set_dirty(Qcow2 *q, bool is_dirty) QIMG_MUST_CHECK;

/* Damage was met by a writer: sets the corrupt bit (version 3), refuses every further
 * change and logs @rule with @host_offset. Returns -EIO.
 * Threads: any, with or without alloc_lock. */
QimgErrno qcow2_mark_corrupt(Qcow2 *q, QimgRule rule, uint64_t host_offset);

/* ---- overlap.c: guest data must not land on metadata ---- */

/* Fills the set from the header and the tables. Before the layer is active. -EIO where
 * two structures overlap (the image is marked corrupt). */
QimgErrno qcow2_collect_metadata(Qcow2 *q) QIMG_MUST_CHECK;

/* ---- refcount.c: refcount table and blocks; all under alloc_lock ---- */

/* Reads the refcount table into memory, as it is. */
QimgErrno qcow2_refcount_read_table(Qcow2 *q) QIMG_MUST_CHECK;

/* Whether @entry of the table is 0 or a place for a block. */
bool qcow2_refcount_is_entry_sound(Qcow2 *q, uint64_t entry);

/* Reads the refcount table into memory, checked. */
QimgErrno qcow2_refcount_load_table(Qcow2 *q) QIMG_MUST_CHECK;

/* The refcount of a cluster; 0 where there is no block. */
QimgErrno qcow2_refcount_get(Qcow2 *q, uint64_t cluster, uint64_t *refcount_out)
    QIMG_MUST_CHECK;

/* Looks for free clusters from @from on: the first run of at most @n_max clusters with
 * refcount 0, for which blocks exist (they are made where they are missing). */
QimgErrno qcow2_refcount_find_free(Qcow2 *q, uint64_t from, uint64_t n_max,
                                   QimgClusters *found_out) QIMG_MUST_CHECK;

/* Adds @delta (1 or -1) to the refcounts of the first *@n_done_out > 0 clusters of @run,
 * in one write; nothing is synced. Those that became 0 are appended to @freed
 * (QimgClusters), if not NULL. On failure nothing is changed; -ERANGE as below. */
QimgErrno qcow2_refcount_add_some(Qcow2 *q, QimgClusters run, int delta, GArray *freed,
                                  uint64_t *n_done_out) QIMG_MUST_CHECK;

/* Adds @delta (1 or -1) to the refcount of each cluster of @run, in the file; nothing is
 * synced. Not for references that go: where it fails, some of them may be gone. On
 * failure what was changed is changed back as far as possible. -ERANGE where a refcount
 * would be less than 0 or too large for its width, or its block is missing. */
QimgErrno qcow2_refcount_add(Qcow2 *q, QimgClusters run, int delta) QIMG_MUST_CHECK;

/* Makes @n clusters that lie together countable, behind all that is counted so far, and
 * gives the first; their refcounts are 0. */
QimgErrno qcow2_refcount_make_room(Qcow2 *q, uint64_t n, uint64_t *first_cluster_out)
    QIMG_MUST_CHECK;

/* The last cluster below @end_cluster with a refcount; 0 where there is none. */
QimgErrno qcow2_refcount_find_last(Qcow2 *q, uint64_t end_cluster, uint64_t *cluster_out)
    QIMG_MUST_CHECK;

/* Adds @run to a list of runs, joined with the last where they touch. */
void qcow2_clusters_append(GArray *list, QimgClusters run);

/* ---- alloc.c: the reserve; all under alloc_lock ---- */

/* Takes 1 to @n_max contiguous clusters that are free for data or tables (W1). */
QimgErrno qcow2_alloc(Qcow2 *q, uint64_t n_max, QimgClusters *out) QIMG_MUST_CHECK;

/* Takes exactly @n contiguous clusters, as qcow2_alloc. */
QimgErrno qcow2_alloc_exactly(Qcow2 *q, uint64_t n, uint64_t *first_cluster_out)
    QIMG_MUST_CHECK;

/* Gives clusters back that nothing durable ever referred to. */
void qcow2_alloc_undo(Qcow2 *q, QimgClusters run);

/* Gives the whole reserve back, and cuts the file behind its last used cluster, but not
 * below @min_file_bytes. */
QimgErrno qcow2_alloc_release_reserve(Qcow2 *q, uint64_t min_file_bytes) QIMG_MUST_CHECK;

/* ---- flush.c: what waits for a flush ---- */

/* One reference of each cluster of @run goes once the present entries are durable (W3).
 * Threads: any; locks outside PENDING may be held. */
void qcow2_free_later(Qcow2 *q, QimgClusters run);

/* As qcow2_free_later of what a standard or compressed L2 entry refers to. */
void qcow2_free_entry_later(Qcow2 *q, uint64_t l2_entry);

/* Lets clusters be found free whose refcounts have fallen to 0: nothing durable refers to
 * them any more, and no request uses them. Under alloc_lock. */
void qcow2_forget_clusters(Qcow2 *q, QimgClusters run);

/* Checks an L2 entry (@bitmap of extended ones, else 0) for the cluster at @guest_offset
 * that is going to be changed: it must be understood, and refer to no table. Else the
 * image is marked corrupt, and the answer is -EIO. */
QimgErrno qcow2_check_entry(Qcow2 *q, uint64_t word, uint64_t bitmap,
                            uint64_t guest_offset) QIMG_MUST_CHECK;

/* As qcow2_flush, and returns when no reference waits any more, in other threads' flushes
 * either: refcounts are what the tables say. -ENOSPC where one could not be lowered. With
 * the gate closed, by the caller. */
QimgErrno qcow2_flush_all(Qcow2 *q) QIMG_MUST_CHECK;

/* QimgDriver.flush, .wants_flush. */
QimgErrno qcow2_flush(QimgFormat *format);
bool qcow2_wants_flush(QimgFormat *format);

/* ---- tables.c: changing L1 and L2 entries ---- */

static inline QimgTablePlace
qcow2_place_of(const Qcow2 *q, uint64_t guest_offset, uint64_t length_bytes)
{
    return qimg_table_place(guest_offset, length_bytes, q->geometry.cluster_bits,
                            q->geometry.l1_shift,
                            q->slice_words / q->geometry.l2_entry_words);
}

/* The L2 table for @l1_index as a table that only the active disk uses: made where there
 * is none, copied where it is shared. Threads: any; no lock may be held.
 * Errors: as plan_write. */
QimgErrno qcow2_ensure_l2_table(Qcow2 *q, uint64_t l1_index,
                                uint64_t *l2_table_offset_out) QIMG_MUST_CHECK;

/* Where the L2 table of @l1_index lies in *@l2_table_offset_out, 0: there is none; and
 * whether only the active disk uses it. */
QimgErrno qcow2_find_l2_table(Qcow2 *q, uint64_t l1_index, uint64_t *l2_table_offset_out,
                              bool *is_private_out) QIMG_MUST_CHECK;

/* A slice of an L2 table that is pinned to be changed (T1). */
typedef struct {
    TableSlice slice;
    uint64_t host_offset; /* of its first word */
} Qcow2L2Slice;

/* Pins the slice with entry @l2_index of the table at @l2_table_offset. Unpin with
 * table_slice_unpin(&slice->slice). */
QimgErrno qcow2_l2_pin(Qcow2 *q, uint64_t l2_table_offset, uint64_t l2_index,
                       Qcow2L2Slice *out) QIMG_MUST_CHECK;

/* Writes @n_words at word @word_index of the slice to the file, and then to the slice;
 * @words are host-endian. @is_bitmap_first: of extended entries, the bitmap is to be seen
 * changed first (the old word has no use for it). */
QimgErrno qcow2_l2_store(Qcow2 *q, Qcow2L2Slice *slice, uint64_t word_index,
                         const uint64_t *words, uint64_t n_words, bool is_bitmap_first)
    QIMG_MUST_CHECK;

/* Writes the L1 entry, as qcow2_l2_store. Under alloc_lock. */
QimgErrno qcow2_l1_store(Qcow2 *q, uint64_t l1_index, uint64_t entry) QIMG_MUST_CHECK;

/* Forgets the cached slices of a table of @n_bytes whose clusters were freed, or are
 * about to hold another. No request may still use them. */
void qcow2_forget_table(Qcow2 *q, TableKind kind, uint64_t host_offset, uint64_t n_bytes);

/* ---- create.c ---- */

/* QimgDriver.check_create and create. */
bool qcow2_check_create(const QimgCreateOptions *options, GError **error);
bool qcow2_create(QimgStorage *file, const QimgCreateOptions *options, GError **error);

/* ---- write.c, discard.c, resize.c: see QimgDriver ---- */

/* Whether the image has an external data file that is the disk, byte for byte. */
static inline bool
qcow2_has_raw_data_file(const Qcow2 *q)
{
    return (q->header.autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW) != 0;
}

QimgErrno qcow2_plan_write(QimgFormat *format, QimgGuestOffset guest_offset,
                           uint64_t length_bytes, QimgWritePlan *plan_out);
QimgErrno qcow2_publish(QimgFormat *format, QimgWritePlan *plan);
void qcow2_abandon(QimgFormat *format, QimgWritePlan *plan);
QimgErrno qcow2_zero(QimgFormat *format, QimgGuestOffset guest_offset,
                     uint64_t length_bytes, QimgZeroMode mode, bool below_is_zero,
                     uint64_t *done_out);
QimgErrno qcow2_extend_tables(QimgFormat *format, uint64_t size_bytes);
QimgErrno qcow2_resize(QimgFormat *format, uint64_t size_bytes);

/* ---- snapshot-change.c: see QimgDriver ---- */

QimgErrno qcow2_create_snapshot(QimgFormat *format, const QimgNewSnapshot *snapshot);
QimgErrno qcow2_delete_snapshot(QimgFormat *format, unsigned place);
QimgErrno qcow2_rename_snapshot(QimgFormat *format, unsigned place, const char *name);
QimgErrno qcow2_revert_to_snapshot(QimgFormat *format, unsigned place);

/* ---- check.c, repair.c: see QimgDriver ---- */

bool qcow2_check(QimgFormat *format, QimgCheckReport *report, GError **error);
bool qcow2_repair(QimgFormat *format, QimgRepair mode, QimgCheckReport *report,
                  GError **error);

/* Makes the refcounts and COPIED flags of a dirty image what its references say, and
 * clears the dirty bit. Before the layer is active, under alloc_lock, with the refcount
 * table loaded. Errors: -EIO where the tables are too damaged to be counted, -EFBIG where
 * counting would take too much memory (both before anything is written, and for ever: the
 * layer is broken); those of the storage, after which it can be tried again. */
QimgErrno qcow2_repair_dirty(Qcow2 *q) QIMG_MUST_CHECK;
