/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Thread pool: one intrusive queue under one lock.
 *
 * I1  A job is in the queue exactly while job->queued.
 *
 * I2  qimg_workers_parallel returns only when none of its jobs is queued or running, so
 *     they may live on its stack. */
#include "base/workers.h"

#include <glib.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/lock.h"

#define MAX_PARALLEL_HELPERS 16u

struct QimgWorkers {
    QimgMutex lock;     /* rank QIMG_RANK_WORKERS */
    QimgCond wake;      /* signalled when a job is queued, or on stop */
    QimgCond done;      /* signalled when a helper of a parallel call has ended */
    QimgJob head;       /* guarded by lock: ring; head.next runs first */
    bool stop;          /* guarded by lock */
    unsigned n_started; /* guarded by lock */
    unsigned n_idle;    /* guarded by lock */
    unsigned n_threads; /* const after new */
    pthread_t *threads; /* guarded by lock until stop */
};

QimgWorkers *
qimg_workers_new(unsigned n_threads)
{
    QimgWorkers *workers = g_new0(QimgWorkers, 1);

    qimg_mutex_init(&workers->lock, QIMG_RANK_WORKERS);
    qimg_cond_init(&workers->wake);
    qimg_cond_init(&workers->done);
    workers->head.next = workers->head.prev = &workers->head;
    workers->n_threads = MAX(n_threads, 1u);
    workers->threads = g_new0(pthread_t, workers->n_threads);
    return workers;
}

void
qimg_workers_free(QimgWorkers *workers)
{
    if (!workers)
        return;
    qimg_mutex_lock(&workers->lock);
    g_assert(workers->head.next == &workers->head);
    workers->stop = true;
    qimg_cond_broadcast(&workers->wake);
    qimg_mutex_unlock(&workers->lock);
    for (unsigned i = 0; i < workers->n_started; i++)
        pthread_join(workers->threads[i], NULL);
    qimg_cond_clear(&workers->done);
    qimg_cond_clear(&workers->wake);
    qimg_mutex_clear(&workers->lock);
    g_free(workers->threads);
    g_free(workers);
}

unsigned
qimg_workers_get_n_threads(const QimgWorkers *workers)
{
    return workers->n_threads;
}

static void
unlink_job(QimgJob *job)
{
    job->prev->next = job->next;
    job->next->prev = job->prev;
    job->queued = false;
}

static void *
pool_worker_main(void *user)
{
    QimgWorkers *workers = user;

    qimg_mutex_lock(&workers->lock);
    for (;;) {
        QimgJob *job = workers->head.next;

        if (job != &workers->head) {
            unlink_job(job);
            qimg_mutex_unlock(&workers->lock);
            job->run(job);
            qimg_mutex_lock(&workers->lock);
        } else if (workers->stop) {
            break;
        } else {
            workers->n_idle++;
            qimg_cond_wait(&workers->wake, &workers->lock);
            workers->n_idle--;
        }
    }
    qimg_mutex_unlock(&workers->lock);
    return NULL;
}

bool
qimg_thread_start(pthread_t *thread_out, void *(*run)(void *user), void *user)
{
    sigset_t all, old;
    int err;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(thread_out, NULL, run, user);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err == 0;
}

/* Starts one more thread if jobs would otherwise wait. Under lock. */
static void
ensure_thread(QimgWorkers *workers)
{
    if (workers->n_idle > 0 || workers->n_started == workers->n_threads)
        return;
    if (qimg_thread_start(&workers->threads[workers->n_started], pool_worker_main,
                          workers))
        workers->n_started++;
}

bool
qimg_workers_submit(QimgWorkers *workers, QimgJob *job, bool urgent)
{
    QIMG_LOCK_SCOPE(&workers->lock);
    QimgJob *before;

    ensure_thread(workers);
    if (workers->n_started == 0)
        return false;
    before = urgent ? &workers->head : workers->head.prev;
    job->prev = before;
    job->next = before->next;
    before->next->prev = job;
    before->next = job;
    job->queued = true;
    if (workers->n_idle > 0)
        qimg_cond_signal(&workers->wake);
    return true;
}

bool
qimg_workers_cancel(QimgWorkers *workers, QimgJob *job)
{
    QIMG_LOCK_SCOPE(&workers->lock);

    if (!job->queued)
        return false;
    unlink_job(job);
    return true;
}

typedef struct {
    QimgWorkers *workers;
    void (*work)(void *, unsigned);
    void *user;
    unsigned n_items;
    atomic_uint next_item; /* relaxed: only hands out indices */
    unsigned n_unfinished; /* guarded by workers->lock: helpers queued or running */
} Batch;

typedef struct {
    QimgJob job;
    Batch *batch;
} Helper;

static void
batch_work(Batch *batch)
{
    unsigned item;

    while ((item = atomic_fetch_add_explicit(&batch->next_item, 1,
                                             memory_order_relaxed)) < batch->n_items)
        batch->work(batch->user, item);
}

static void
helper_run(QimgJob *job)
{
    Batch *batch = ((Helper *)job)->batch;
    QimgWorkers *workers = batch->workers;

    batch_work(batch);
    /* The batch may be freed once the lock is released. */
    QIMG_LOCK_SCOPE(&workers->lock);
    batch->n_unfinished--;
    qimg_cond_broadcast(&workers->done);
}

void
qimg_workers_parallel(QimgWorkers *workers, unsigned n_items,
                      void (*work)(void *user, unsigned item_index), void *user)
{
    Helper helpers[MAX_PARALLEL_HELPERS];
    Batch batch = {.workers = workers, .work = work, .user = user, .n_items = n_items};
    unsigned n_helpers = 0;

    if (workers && n_items > 1) {
        /* This thread counts as one. */
        unsigned n_wanted =
            MIN(MIN(n_items - 1, workers->n_threads), MAX_PARALLEL_HELPERS);

        batch.n_unfinished = n_wanted;
        for (; n_helpers < n_wanted; n_helpers++) {
            helpers[n_helpers] = (Helper){.job.run = helper_run, .batch = &batch};
            if (!qimg_workers_submit(workers, &helpers[n_helpers].job, true))
                break;
        }
        if (n_helpers < n_wanted) {
            QIMG_LOCK_SCOPE(&workers->lock);
            batch.n_unfinished -= n_wanted - n_helpers;
        }
    }
    batch_work(&batch);
    if (n_helpers == 0)
        return;
    QIMG_LOCK_SCOPE(&workers->lock);
    for (unsigned i = 0; i < n_helpers; i++) {
        if (helpers[i].job.queued) {
            unlink_job(&helpers[i].job);
            batch.n_unfinished--;
        }
    }
    while (batch.n_unfinished > 0)
        qimg_cond_wait(&workers->done, &workers->lock);
}
