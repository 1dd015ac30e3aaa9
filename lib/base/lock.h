/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mutexes and conditions with ranks. Locks are taken from the outermost rank inwards:
 *
 *   TEXT        an open control file, and its generator's position (fuse)
 *   SCAN        a scan for images coming and going in a directory (fuse)
 *   IMAGES      the registry of images (fuse)
 *   PARTITIONS  the cache of partition tables (fuse)
 *   SNAPSHOTS   the cached list of snapshots, of bitmaps (fuse)
 *   FILES       the open files (fuse)
 *   MEASURED    the cached sizes of control files (fuse)
 *   COHERENCE   the changes to be told to views of a disk (fuse)
 *   COPY        the pieces of a copy, and its journal (copy/)
 *   TURNS       waiting for requests, one caller at a time (base/gate.c)
 *   GATE        waiting for an exclusive change to end (base/gate.c)
 *   SIZE        the end of a disk that grows inside the gate (image/write/resize.c)
 *   BITMAPS     the begin of a session of bitmaps (format/qcow2/bitmap/session.c)
 *   ALLOC       the allocator of one image, L1 entries and refcounts (format/)
 *   HEADER      the feature bits of one image (format/qcow2/layer/header-io.c)
 *   STREAMS     sequential readers of compressed images (image/read/read-ahead.c)
 *   INFLIGHT    the guest ranges that are being changed (format/inflight.c)
 *   PENDING     clusters to be freed after the next flush (qcow2/refcount/pending.c)
 *   KEEPER      the images kept by the other process (behind/keeper.c)
 *   BEHIND      the pending entries of one image (behind/behind.c)
 *   CACHE       one stripe of a slot cache: claims, waits for loads (cache/slot-cache.c)
 *   WORKERS     the job queue (base/workers.c)
 *   STORAGE     extents of a host file, and the turns of syncs (storage/storage.c)
 *   SERVERS     starting and ending threads, also before a wait for a disk (fuse)
 *   LOG         the socket of the system's log: a message may come under any lock (fuse)
 *   UNMOUNTER   from an order to the unmounting process to its answer (fuse)
 *
 * No lock is held over I/O of guest data, (de)compression, a callback or a reply to the
 * kernel; metadata are read and written under SIZE, BITMAPS, ALLOC and HEADER, under no
 * other lock of the library. SCAN and TEXT serialise whole operations of the file system:
 * library calls, and their I/O, run under them, and no request for data waits for them. A
 * debug build (no NDEBUG) tracks the ranks held by a thread and aborts on a wrong order,
 * and storage/ aborts on I/O under a lock that forbids it.
 *
 * GLib's own locks are not used: ThreadSanitizer cannot see into a packaged GLib. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

typedef enum {
    QIMG_RANK_TEXT,
    QIMG_RANK_SCAN,
    QIMG_RANK_IMAGES,
    QIMG_RANK_PARTITIONS,
    QIMG_RANK_SNAPSHOTS,
    QIMG_RANK_FILES,
    QIMG_RANK_MEASURED,
    QIMG_RANK_COHERENCE,
    QIMG_RANK_COPY,
    QIMG_RANK_TURNS,
    QIMG_RANK_GATE,
    QIMG_RANK_SIZE,
    QIMG_RANK_BITMAPS,
    QIMG_RANK_ALLOC,
    QIMG_RANK_HEADER,
    QIMG_RANK_STREAMS,
    QIMG_RANK_INFLIGHT,
    QIMG_RANK_PENDING,
    QIMG_RANK_KEEPER,
    QIMG_RANK_BEHIND,
    QIMG_RANK_CACHE,
    QIMG_RANK_WORKERS,
    QIMG_RANK_STORAGE,
    QIMG_RANK_SERVERS,
    QIMG_RANK_LOG,
    QIMG_RANK_UNMOUNTER,
} QimgLockRank;

typedef struct QimgMutex {
    pthread_mutex_t mutex;
    QimgLockRank rank; /* const after init */
} QimgMutex;

typedef struct QimgCond {
    pthread_cond_t cond;
} QimgCond;

/* Initializes @mutex; qimg_mutex_clear destroys it, when no thread holds or wants it. */
void qimg_mutex_init(QimgMutex *mutex, QimgLockRank rank);
void qimg_mutex_clear(QimgMutex *mutex);

/* Initializes a mutex of static storage. */
#define QIMG_MUTEX_INITIALIZER(mutex_rank)                                               \
    {                                                                                    \
        .mutex = PTHREAD_MUTEX_INITIALIZER, .rank = (mutex_rank)                         \
    }

/* Lock and unlock @mutex. Not recursive. */
void qimg_mutex_lock(QimgMutex *mutex);
void qimg_mutex_unlock(QimgMutex *mutex);

/* Locks @mutex if no thread holds it, else returns false. */
bool qimg_mutex_trylock(QimgMutex *mutex);

/* In a debug build, aborts if the calling thread holds any ranked lock but SCAN and TEXT:
 * called before I/O of guest data, which is forbidden under a lock. */
void qimg_lock_assert_none_held(void);

/* The same, but SIZE, BITMAPS, ALLOC and HEADER may be held, too: called before I/O of
 * metadata. */
void qimg_lock_assert_metadata_io(void);

void qimg_cond_init(QimgCond *cond);
void qimg_cond_clear(QimgCond *cond);

/* Waits for a signal and unlocks @mutex meanwhile. May wake spuriously. */
void qimg_cond_wait(QimgCond *cond, QimgMutex *mutex);

/* The same, until @deadline of CLOCK_REALTIME at the latest: false when it has passed. */
bool qimg_cond_wait_until(QimgCond *cond, QimgMutex *mutex,
                          const struct timespec *deadline);
void qimg_cond_signal(QimgCond *cond);
void qimg_cond_broadcast(QimgCond *cond);

static inline void
qimg_lock_scope_end(QimgMutex **mutex)
{
    qimg_mutex_unlock(*mutex);
}

#define QIMG_LOCK_CONCAT_(a, b) a##b
#define QIMG_LOCK_CONCAT(a, b)  QIMG_LOCK_CONCAT_(a, b)

/* Holds the mutex until the end of the enclosing block. */
#define QIMG_LOCK_SCOPE(m)                                                               \
    QimgMutex *QIMG_LOCK_CONCAT(qimg_scope_, __LINE__)                                   \
        __attribute__((cleanup(qimg_lock_scope_end), unused)) =                          \
            (qimg_mutex_lock(m), (m))
