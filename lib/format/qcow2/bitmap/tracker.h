/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Keeps the bitmaps of a writable layer valid: every enabled one gets a bit for each
 * changed granule. Spec: bitmaps sections 5 and 8.
 *
 *     stored ──(first change: IN_USE set, synced)──▶ session ──(store)──▶ stored
 *
 * B1  A bitmap that is not IN_USE in the file has, at every moment, a bit for each
 *     granule that was changed since it was enabled: IN_USE is durable before the first
 *     change, and is cleared only after all bits are durable.
 *
 * B2  A disabled bitmap is never changed by writes.
 *
 * B3  Bits are set in memory before the data are issued, inside the gate; they are stored
 *     while the gate is closed. So a store never misses the bits of a change.
 *
 * B4  Memory holds the bits that were set since the last store. A store joins them with
 *     those in the file. */
#pragma once

#include <pthread.h>

#include "format/qcow2/layer/qcow2.h"

/* One enabled bitmap. */
typedef struct {
    unsigned place; /* in the list */
    unsigned granularity_bits;
    uint64_t n_entries; /* of the table */
    /* The table, host-endian; changes with the gate closed. A bit that entries lack marks
     * clusters written by this process (QCOW2_TRACK_OWNED). NULL: there was no room in
     * memory, and all bits are set. */
    uint64_t *table;
    /* For each entry the bits set since the last store: NULL: none; QCOW2_TRACK_ONES: all
     * are set in the file. Published with release; freed with the gate closed. */
    uint64_t *_Atomic *chunks;
    _Atomic bool is_all; /* atomic, relaxed: set every bit */
} Qcow2TrackedBitmap;

#define QCOW2_TRACK_OWNED UINT64_C(2)
#define QCOW2_TRACK_ONES  ((uint64_t *)(void *)&qcow2_track_ones)
extern uint64_t qcow2_track_ones;

struct Qcow2Tracker {
    Qcow2 *q;           /* its layer */
    uint64_t max_bytes; /* const: limit of the memory for bits */
    QimgBitmaps *list;  /* owned; replaced while the gate is closed */
    uint8_t *directory; /* owned: as in the file, except IN_USE of the session */
    unsigned n_tracked; /* const once is_loaded, except while the gate is closed */
    Qcow2TrackedBitmap *tracked;
    _Atomic bool is_loaded;  /* atomic: tracked is filled */
    _Atomic bool is_session; /* atomic: IN_USE is set, durably */
    _Atomic bool is_dropped; /* atomic: no bitmap is kept valid; the file says so */
    _Atomic bool
        is_touched; /* atomic, relaxed: since the last check by the idle thread */
    _Atomic uint64_t n_bytes; /* atomic, relaxed: of chunks and tables */
    bool is_told;             /* gate closed: a failure was logged */
    bool has_marked_disabled; /* gate closed: IN_USE is set for disabled ones, too */
    QimgMutex lock;   /* rank BITMAPS: the begin of a session; the thread's life */
    QimgCond wakes;   /* the thread: a session begins, or it ends */
    bool is_ending;   /* guarded by lock */
    bool has_thread;  /* guarded by lock */
    pthread_t thread; /* stores bits after a while without a change */
};

/* Creates the tracker of a layer that is opened for writing, if it has valid bitmaps to
 * be kept. False with @error set if they cannot be read. */
bool qcow2_tracker_open(Qcow2 *q, uint64_t max_bytes, GError **error);

/* Ends the idle thread; no request is in flight. Accepts NULL. */
void qcow2_tracker_end(Qcow2Tracker *t);
void qcow2_tracker_free(Qcow2Tracker *t);

/* Reads the tables of all enabled bitmaps, unless that is done. Under the lock, or with
 * the gate closed. */
QimgErrno qcow2_tracker_load(Qcow2Tracker *t) QIMG_MUST_CHECK;

/* Sets the bits of a range of the disk, in all enabled bitmaps. False if the memory for
 * them would exceed its limit and @may_exceed is not set: some are set then. Inside the
 * gate or while it is closed, in a session. */
bool qcow2_tracker_set(Qcow2Tracker *t, uint64_t guest_offset, uint64_t length_bytes,
                       bool may_exceed) QIMG_MUST_CHECK;

/* Replaces the list and directory by @list and @directory, just read; the bits in memory
 * are stored. With the gate closed. */
QimgErrno qcow2_tracker_adopt(Qcow2Tracker *t, QimgBitmaps *list, uint8_t *directory)
    QIMG_MUST_CHECK;

/* Takes over the file's bitmaps after a change of the directory, outside of a session.
 * With the gate closed. */
QimgErrno qcow2_tracker_reload(Qcow2 *q) QIMG_MUST_CHECK;

/* Adds the clusters of the directory and the tables to the layer's metadata. Under
 * alloc_lock. Accepts NULL. */
QimgErrno qcow2_tracker_add_metadata(Qcow2Tracker *t) QIMG_MUST_CHECK;

/* Drops all bits and tables in favour of those in the file. With the gate closed. */
void qcow2_tracker_forget(Qcow2Tracker *t);
