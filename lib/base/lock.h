/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mutexes and conditions with ranks. Locks are taken from the outermost rank inwards:
 *
 *   COPY     the pieces of a copy, and its journal (image/copy-engine.c, copy-journal.c)
 *   GATE     who waits for an exclusive change to end (base/gate.c)
 *   ALLOC    the allocator of one image, L1 entries, refcounts (qcow2/refcount/alloc.c)
 *   HEADER   the feature bits of one image (format/qcow2/layer/header-io.c)
 *   INFLIGHT the guest ranges that are being changed (format/inflight.c)
 *   PENDING  clusters to be freed after the next flush (format/qcow2/refcount/pending.c)
 *   CACHE    one stripe of a slot cache (cache/slot-cache.c): claims and waits for loads
 *   WORKERS  the job queue (base/workers.c)
 *   STORAGE  extents of a host file, and whose turn a sync is (storage/storage.c)
 *
 * No lock is held over I/O of guest data, (de)compression, a callback or a reply to the
 * kernel; metadata are read and written under ALLOC and HEADER, under no other. A debug
 * build (no NDEBUG) keeps the ranks held by a thread and aborts on a wrong order, and
 * storage/ aborts on I/O under a lock that forbids it.
 *
 * GLib's own locks are not used: ThreadSanitizer cannot see into a packaged GLib. */
#pragma once

#include <pthread.h>

typedef enum {
    QIMG_RANK_COPY,
    QIMG_RANK_GATE,
    QIMG_RANK_ALLOC,
    QIMG_RANK_HEADER,
    QIMG_RANK_INFLIGHT,
    QIMG_RANK_PENDING,
    QIMG_RANK_CACHE,
    QIMG_RANK_WORKERS,
    QIMG_RANK_STORAGE,
} QimgLockRank;

/* Documentation that clang checks where it can parse these attributes in C. */
#if defined(__clang__) && defined(QIMG_THREAD_SAFETY_ANALYSIS)
#define QIMG_GUARDED_BY(lock) __attribute__((guarded_by(lock)))
#define QIMG_REQUIRES(lock)   __attribute__((requires_capability(lock)))
#define QIMG_EXCLUDES(lock)   __attribute__((locks_excluded(lock)))
#else
#define QIMG_GUARDED_BY(lock)
#define QIMG_REQUIRES(lock)
#define QIMG_EXCLUDES(lock)
#endif

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

/* Takes and gives back @mutex. Not recursive. */
void qimg_mutex_lock(QimgMutex *mutex);
void qimg_mutex_unlock(QimgMutex *mutex);

/* Aborts in a debug build when the calling thread holds any ranked lock: called before
 * I/O of guest data, which must not happen under one. */
void qimg_lock_assert_none_held(void);

/* Aborts in a debug build when the calling thread holds a lock other than ALLOC and
 * HEADER: called before I/O of metadata. */
void qimg_lock_assert_metadata_io(void);

void qimg_cond_init(QimgCond *cond);
void qimg_cond_clear(QimgCond *cond);

/* Waits for a signal with @mutex given back meanwhile. May wake for no reason. */
void qimg_cond_wait(QimgCond *cond, QimgMutex *mutex);
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
