/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mutexes and conditions with ranks. Locks are taken from the outermost rank inwards:
 *
 *   TEXT        an open control file, and where its generator stands (fuse)
 *   SCAN        looking for images that come and go in a directory (fuse)
 *   IMAGES      the registry of images (fuse)
 *   PARTITIONS  partition tables that are kept (fuse)
 *   SNAPSHOTS   the list of snapshots that is kept (fuse)
 *   FILES       the open files (fuse)
 *   MEASURED    sizes of control files that were measured (fuse)
 *   COHERENCE   changes that views of a disk are told of (fuse)
 *   COPY        the pieces of a copy, and its journal (copy/)
 *   TURNS       waiting for requests, one caller at a time (base/gate.c)
 *   GATE        waiting for an exclusive change to end (base/gate.c)
 *   SIZE        the end of a disk that grows inside the gate (image/write/resize.c)
 *   ALLOC       the allocator of one image, L1 entries and refcounts (format/)
 *   HEADER      the feature bits of one image (format/qcow2/layer/header-io.c)
 *   STREAMS     sequential readers of compressed images (image/read/read-ahead.c)
 *   INFLIGHT    the guest ranges that are being changed (format/inflight.c)
 *   PENDING     clusters to be freed after the next flush (qcow2/refcount/pending.c)
 *   KEEPER      which images are kept by the other process (behind/keeper.c)
 *   BEHIND      the entries of one image that wait to be written (behind/behind.c)
 *   CACHE       one stripe of a slot cache: claims, waits for loads (cache/slot-cache.c)
 *   WORKERS     the job queue (base/workers.c)
 *   STORAGE     extents of a host file, and whose turn a sync is (storage/storage.c)
 *   SERVERS     threads that are started and end, also before a wait for a disk (fuse)
 *   LOG         the socket of the system's log: a message may come under any lock (fuse)
 *   UNMOUNTER   from an order to the process that unmounts to its answer (fuse)
 *
 * No lock is held over I/O of guest data, (de)compression, a callback or a reply to the
 * kernel; metadata are read and written under SIZE, ALLOC and HEADER, under no other of
 * the library. SCAN and TEXT serialise whole operations of the file system: calls of the
 * library, and their I/O, run under them, and no request for data waits for them. A debug
 * build (no NDEBUG) keeps the ranks held by a thread and aborts on a wrong order, and
 * storage/ aborts on I/O under a lock that forbids it.
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

/* Prepares @mutex; qimg_mutex_clear ends it, when nobody holds or wants it. */
void qimg_mutex_init(QimgMutex *mutex, QimgLockRank rank);
void qimg_mutex_clear(QimgMutex *mutex);

/* A mutex of static storage, prepared. */
#define QIMG_MUTEX_INITIALIZER(mutex_rank)                                               \
    {                                                                                    \
        .mutex = PTHREAD_MUTEX_INITIALIZER, .rank = (mutex_rank)                         \
    }

/* Takes and gives back @mutex. Not recursive. */
void qimg_mutex_lock(QimgMutex *mutex);
void qimg_mutex_unlock(QimgMutex *mutex);

/* Takes @mutex if no thread holds it, else returns false. */
bool qimg_mutex_trylock(QimgMutex *mutex);

/* Aborts in a debug build when the calling thread holds any ranked lock but SCAN and
 * TEXT: called before I/O of guest data, which must not happen under one. */
void qimg_lock_assert_none_held(void);

/* The same, where SIZE, ALLOC and HEADER may be held, too: called before I/O of metadata.
 */
void qimg_lock_assert_metadata_io(void);

void qimg_cond_init(QimgCond *cond);
void qimg_cond_clear(QimgCond *cond);

/* Waits for a signal with @mutex given back meanwhile. May wake for no reason. */
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
