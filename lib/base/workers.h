/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A pool of threads for expensive work (decompression). Threads start with the first job,
 * so a pool may be made before the process forks. */
#pragma once

#include <pthread.h>

#include "base/types.h"

/* Starts a joinable thread with all signals blocked; false if none can be created. */
bool qimg_thread_start(pthread_t *thread_out, void *(*run)(void *user), void *user)
    QIMG_MUST_CHECK;

typedef struct QimgWorkers QimgWorkers;
typedef struct QimgJob QimgJob;

/* A job lives in memory of its submitter, who keeps it until it has run or was
 * cancelled. */
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

/* Queues @job: at the front if @urgent (a caller waits for it), else at the end. False if
 * no thread could be created: the caller then does the work itself. Threads: any. No
 * allocation after the first call. */
bool qimg_workers_submit(QimgWorkers *workers, QimgJob *job, bool urgent) QIMG_MUST_CHECK;

/* Removes @job from the queue: true if it will not run, false if it has begun. */
bool qimg_workers_cancel(QimgWorkers *workers, QimgJob *job);

/* Calls @work(@user, i) for each i in [0, @n_items), in this thread and in idle ones of
 * the pool, and returns when all calls have returned. @work must not longjmp and must
 * return without locks. If @workers is NULL, this thread does everything. Threads: any;
 * no lock may be held. */
void qimg_workers_parallel(QimgWorkers *workers, unsigned n_items,
                           void (*work)(void *user, unsigned item_index), void *user);
