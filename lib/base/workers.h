/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A pool of threads for work that is worth spreading (decompression). Threads are made
 * when the first job comes, so a pool may be made before the process forks. */
#pragma once

#include <pthread.h>

#include "base/types.h"

/* Starts a thread, to be joined, that leaves signals to the threads of the program; false
 * where none can be made. */
bool qimg_thread_start(pthread_t *thread_out, void *(*run)(void *user), void *user)
    QIMG_MUST_CHECK;

typedef struct QimgWorkers QimgWorkers;
typedef struct QimgJob QimgJob;

/* A job lives in memory of its submitter, who keeps it until it has run or was cancelled.
 */
struct QimgJob {
    void (*run)(QimgJob *job); /* const after submit; may free the job */
    QimgJob *next;             /* guarded by the pool's lock */
    QimgJob *prev;             /* guarded by the pool's lock */
    bool queued;               /* guarded by the pool's lock */
};

/* Makes a pool of @n_threads (at least 1) threads; no thread runs yet. */
QimgWorkers *qimg_workers_new(unsigned n_threads);

/* Ends the pool's threads. No job may be queued or running. Accepts NULL. */
void qimg_workers_free(QimgWorkers *workers);

/* Number of threads that the pool has or will have. */
unsigned qimg_workers_get_n_threads(const QimgWorkers *workers);

/* Queues @job, before all others when @urgent (somebody waits for it), behind them when
 * not. False when no thread could be made: the caller does the work itself.
 * Threads: any. No allocation after the first call. */
bool qimg_workers_submit(QimgWorkers *workers, QimgJob *job, bool urgent) QIMG_MUST_CHECK;

/* Takes @job out of the queue: true when it will not run, false when it has begun. */
bool qimg_workers_cancel(QimgWorkers *workers, QimgJob *job);

/* Calls @work(@user, i) for each i in [0, @n_items), on this thread and on idle ones of
 * the pool, and returns when all calls have returned. @work must not fail by longjmp and
 * holds no lock on return. @workers may be NULL: all is done here.
 * Threads: any; no lock may be held. */
void qimg_workers_parallel(QimgWorkers *workers, unsigned n_items,
                           void (*work)(void *user, unsigned item_index), void *user);
