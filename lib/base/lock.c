/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ranked mutexes over pthreads. A failing pthread call here is a bug of ours. */
#include "base/lock.h"

#include <errno.h>
#include <glib.h>

#include "base/wait-hook.h"

#ifndef NDEBUG
/* Held over library calls and their I/O. */
#define RANKS_OVER_IO (1u << QIMG_RANK_SCAN | 1u << QIMG_RANK_TEXT)

static _Thread_local unsigned held_ranks; /* one bit for each rank */

static void
rank_enter(QimgLockRank rank)
{
    /* All held ranks must be further out than the new one. */
    g_assert((held_ranks >> rank) == 0);
    held_ranks |= 1u << rank;
}

static void
rank_leave(QimgLockRank rank)
{
    held_ranks &= ~(1u << rank);
}

void
qimg_lock_assert_none_held(void)
{
    g_assert((held_ranks & ~RANKS_OVER_IO) == 0);
}

void
qimg_lock_assert_metadata_io(void)
{
    g_assert(
        (held_ranks & ~(RANKS_OVER_IO | 1u << QIMG_RANK_SIZE | 1u << QIMG_RANK_BITMAPS |
                        1u << QIMG_RANK_ALLOC | 1u << QIMG_RANK_HEADER)) == 0);
}
#else
static void
rank_enter(QimgLockRank rank)
{
    (void)rank;
}

static void
rank_leave(QimgLockRank rank)
{
    (void)rank;
}

void
qimg_lock_assert_none_held(void)
{
}

void
qimg_lock_assert_metadata_io(void)
{
}
#endif

static void
must(int errnum)
{
    if (errnum != 0)
        g_error("pthread call failed: %s", g_strerror(errnum));
}

void
qimg_mutex_init(QimgMutex *mutex, QimgLockRank rank)
{
    must(pthread_mutex_init(&mutex->mutex, NULL));
    mutex->rank = rank;
}

void
qimg_mutex_clear(QimgMutex *mutex)
{
    must(pthread_mutex_destroy(&mutex->mutex));
}

void
qimg_mutex_lock(QimgMutex *mutex)
{
    rank_enter(mutex->rank);
    must(pthread_mutex_lock(&mutex->mutex));
}

bool
qimg_mutex_trylock(QimgMutex *mutex)
{
    int errnum = pthread_mutex_trylock(&mutex->mutex);

    if (errnum == EBUSY)
        return false;
    must(errnum);
    rank_enter(mutex->rank);
    return true;
}

void
qimg_mutex_unlock(QimgMutex *mutex)
{
    must(pthread_mutex_unlock(&mutex->mutex));
    rank_leave(mutex->rank);
}

void
qimg_cond_init(QimgCond *cond)
{
    must(pthread_cond_init(&cond->cond, NULL));
}

void
qimg_cond_clear(QimgCond *cond)
{
    must(pthread_cond_destroy(&cond->cond));
}

void
qimg_cond_wait(QimgCond *cond, QimgMutex *mutex)
{
    qimg_wait_begin();
    must(pthread_cond_wait(&cond->cond, &mutex->mutex));
    qimg_wait_end();
}

bool
qimg_cond_wait_until(QimgCond *cond, QimgMutex *mutex, const struct timespec *deadline)
{
    int errnum;

    qimg_wait_begin();
    errnum = pthread_cond_timedwait(&cond->cond, &mutex->mutex, deadline);
    qimg_wait_end();
    if (errnum == ETIMEDOUT)
        return false;
    must(errnum);
    return true;
}

void
qimg_cond_signal(QimgCond *cond)
{
    must(pthread_cond_signal(&cond->cond));
}

void
qimg_cond_broadcast(QimgCond *cond)
{
    must(pthread_cond_broadcast(&cond->cond));
}
