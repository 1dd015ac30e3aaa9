/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Keeping the bitmaps of a writable layer valid: every enabled one gets a bit for each
 * granule that is changed. Spec: bitmaps sections 5 and 8.
 *
 *     stored ──(first change: IN_USE set, synced)──▶ session ──(store)──▶ stored
 *
 * B1  A bitmap that is not IN_USE in the file has, at every moment, a bit for each
 * granule that was changed since it was enabled: IN_USE is durable before the first
 * change, and goes only after all bits are durable. B2  A disabled bitmap is never
 * changed by writes. B3  Bits are set in memory before the data are issued, inside the
 * gate; they are stored while the gate is closed. So a store never misses the bits of a
 * change. B4  What memory holds are bits that were set since the last store. A store
 * joins them with those in the file. */
#pragma once

#include <pthread.h>

#include "format/qcow2/layer/qcow2.h"

/* One enabled bitmap. */
typedef struct {
    unsigned place; /* in the list */
    unsigned granularity_bits;
    uint64_t n_entries; /* of the table */
    /* The table, host-endian; changes with the gate closed. A bit that entries do not
     * have marks clusters that this process has written (QCOW2_TRACK_OWNED). NULL: there
     * was no room in memory, and all bits are set. */
    uint64_t *table;
    /* For each entry the bits set since the last store: NULL: none; QCOW2_TRACK_ONES: all
     * are set in the file. Published with release; freed with the gate closed. */
    uint64_t *_Atomic *chunks;
    _Atomic bool is_all; /* atomic, relaxed: every bit is to be set */
} Qcow2TrackedBitmap;

#define QCOW2_TRACK_OWNED UINT64_C(2)
#define QCOW2_TRACK_ONES  ((uint64_t *)(void *)&qcow2_track_ones)
extern uint64_t qcow2_track_ones;

struct Qcow2Tracker {
    Qcow2 *q;           /* whose it is */
    uint64_t max_bytes; /* const: what bits may take in memory */
    QimgBitmaps *list;  /* owned; replaced while the gate is closed */
    uint8_t *directory; /* owned: as in the file, but for IN_USE of the session */
    unsigned n_tracked; /* const once is_loaded, but while the gate is closed */
    Qcow2TrackedBitmap *tracked;
    _Atomic bool is_loaded;   /* atomic: tracked is filled */
    _Atomic bool is_session;  /* atomic: IN_USE is set, durably */
    _Atomic bool is_dropped;  /* atomic: nothing is kept up; the file says so */
    _Atomic bool is_touched;  /* atomic, relaxed: since the idle thread looked last */
    _Atomic uint64_t n_bytes; /* atomic, relaxed: of chunks and tables */
    bool is_told;             /* gate closed: a failure was logged */
    bool has_marked_disabled; /* gate closed: IN_USE is set of disabled ones, too */
    QimgMutex lock; /* rank BITMAPS: the begin of a session; the thread's life */
    QimgCond wakes;
    bool is_ending;   /* guarded by lock */
    bool has_thread;  /* guarded by lock */
    pthread_t thread; /* stores when nothing was changed for a while */
};

/* Makes the tracker of a layer that is opened for writing, if it has valid bitmaps that
 * are to be kept. False with @error set where they cannot be read. */
bool qcow2_tracker_open(Qcow2 *q, uint64_t max_bytes, GError **error);

/* Ends the idle thread; no request runs any more. Accepts NULL. */
void qcow2_tracker_end(Qcow2Tracker *t);
void qcow2_tracker_free(Qcow2Tracker *t);

/* Reads the tables of all enabled bitmaps, unless that is done. Under the lock, or with
 * the gate closed. */
QimgErrno qcow2_tracker_load(Qcow2Tracker *t) QIMG_MUST_CHECK;

/* Sets the bits of a range that lies on the disk, in all enabled bitmaps. False where the
 * memory for them would pass its bound and @may_exceed is not set: some are set then.
 * Inside the gate or while it is closed, in a session. */
bool qcow2_tracker_set(Qcow2Tracker *t, uint64_t guest_offset, uint64_t length_bytes,
                       bool may_exceed) QIMG_MUST_CHECK;

/* Takes @list and @directory, just read, in place of those before; the bits in memory are
 * stored. With the gate closed. */
QimgErrno qcow2_tracker_adopt(Qcow2Tracker *t, QimgBitmaps *list, uint8_t *directory)
    QIMG_MUST_CHECK;

/* Takes what the file has after the directory was changed, outside of a session. With the
 * gate closed. */
QimgErrno qcow2_tracker_reload(Qcow2 *q) QIMG_MUST_CHECK;

/* Adds the clusters of the directory and the tables to the layer's metadata. Under
 * alloc_lock. Accepts NULL. */
QimgErrno qcow2_tracker_add_metadata(Qcow2Tracker *t) QIMG_MUST_CHECK;

/* Forgets all bits and tables, for what is in the file. With the gate closed. */
void qcow2_tracker_forget(Qcow2Tracker *t);
