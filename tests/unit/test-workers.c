/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/workers.c: every item once, jobs in order, cancelling; and base/scratch.c: one
 * buffer per thread. */
#include "base/workers.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/scratch.h"
#include "test-util.h"

#define N_ITEMS 1000u

#if defined(__has_feature)
#define IS_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED true
#else
#define IS_SANITIZED false
#endif

static atomic_uint item_calls[N_ITEMS];

static void
count_item(void *user, unsigned item_index)
{
    g_assert_true(user == item_calls);
    atomic_fetch_add(&item_calls[item_index], 1);
}

static void
check_parallel(QimgWorkers *workers, unsigned n_items)
{
    for (unsigned i = 0; i < N_ITEMS; i++)
        atomic_store(&item_calls[i], 0);
    qimg_workers_parallel(workers, n_items, count_item, item_calls);
    for (unsigned i = 0; i < N_ITEMS; i++)
        g_assert_cmpuint(atomic_load(&item_calls[i]), ==, i < n_items ? 1 : 0);
}

static void
test_parallel(void)
{
    static const unsigned sizes[] = {0, 1, 2, 3, 17, N_ITEMS};

    for (unsigned n_threads = 0; n_threads <= 5; n_threads++) {
        QimgWorkers *workers = qimg_workers_new(n_threads);

        g_assert_cmpuint(qimg_workers_get_n_threads(workers), ==, MAX(n_threads, 1));
        for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++)
            check_parallel(workers, sizes[i]);
        qimg_workers_free(workers);
    }
    check_parallel(NULL, 10);
    qimg_workers_free(NULL);
    qimg_workers_free(qimg_workers_new(3)); /* no thread was ever made */
}

/* Several threads that use one pool at once. */
typedef struct {
    QimgWorkers *workers;
    atomic_uint n_done;
} Shared;

static void
add_one(void *user, unsigned item_index)
{
    (void)item_index;
    atomic_fetch_add((atomic_uint *)user, 1);
}

static void *
use_pool(void *user)
{
    Shared *shared = user;

    for (unsigned i = 0; i < 200; i++) {
        atomic_uint n = 0;

        qimg_workers_parallel(shared->workers, 20, add_one, &n);
        if (atomic_load(&n) == 20)
            atomic_fetch_add(&shared->n_done, 1);
    }
    return NULL;
}

static void
test_parallel_by_many(void)
{
    Shared shared = {.workers = qimg_workers_new(3)};
    pthread_t threads[4];

    for (unsigned i = 0; i < 4; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, use_pool, &shared), ==, 0);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    g_assert_cmpuint(atomic_load(&shared.n_done), ==, 4 * 200);
    qimg_workers_free(shared.workers);
}

/* A job that blocks the pool's only thread until it is released. */
typedef struct {
    QimgJob job;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool has_begun, may_end;
    unsigned n_ended;
    GString *order; /* of the jobs below */
} Gate;

typedef struct {
    QimgJob job;
    Gate *gate;
    char letter;
} Letter;

static void
run_gate(QimgJob *job)
{
    Gate *gate = (Gate *)job;

    pthread_mutex_lock(&gate->lock);
    gate->has_begun = true;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->may_end)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static void
run_letter(QimgJob *job)
{
    Letter *letter = (Letter *)job;

    pthread_mutex_lock(&letter->gate->lock);
    g_string_append_c(letter->gate->order, letter->letter);
    letter->gate->n_ended++;
    pthread_cond_broadcast(&letter->gate->changed);
    pthread_mutex_unlock(&letter->gate->lock);
}

static void
test_queue_order(void)
{
    QimgWorkers *workers = qimg_workers_new(1);
    Gate gate = {.job.run = run_gate, .order = g_string_new(NULL)};
    Letter letters[5];

    pthread_mutex_init(&gate.lock, NULL);
    pthread_cond_init(&gate.changed, NULL);
    g_assert_true(qimg_workers_submit(workers, &gate.job, false));
    pthread_mutex_lock(&gate.lock);
    while (!gate.has_begun)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    for (unsigned i = 0; i < 5; i++) {
        letters[i] =
            (Letter){.job.run = run_letter, .gate = &gate, .letter = (char)('a' + i)};
        g_assert_true(qimg_workers_submit(workers, &letters[i].job, i >= 3));
    }
    g_assert_true(qimg_workers_cancel(workers, &letters[1].job));
    g_assert_false(qimg_workers_cancel(workers, &letters[1].job));
    g_assert_false(qimg_workers_cancel(workers, &gate.job)); /* it runs */
    pthread_mutex_lock(&gate.lock);
    gate.may_end = true;
    pthread_cond_broadcast(&gate.changed);
    while (gate.n_ended < 4)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    qimg_workers_free(workers);
    g_assert_cmpstr(gate.order->str, ==, "edac");
    g_string_free(gate.order, TRUE);
    pthread_cond_destroy(&gate.changed);
    pthread_mutex_destroy(&gate.lock);
}

static void *
get_scratch(void *user)
{
    uint8_t *first = qimg_scratch_get(QIMG_SCRATCH_STREAM, 100);

    g_assert_nonnull(first);
    first[99] = 1;
    *(void **)user = first;
    return NULL;
}

static void
test_scratch(void)
{
    uint8_t *small = qimg_scratch_get(QIMG_SCRATCH_STREAM, 1);
    uint8_t *again = qimg_scratch_get(QIMG_SCRATCH_STREAM, 4096);
    uint8_t *large;
    void *others = NULL;
    pthread_t thread;

    g_assert_nonnull(small);
    g_assert_true(small == again); /* the minimum is a page, and it is kept */
    large = qimg_scratch_get(QIMG_SCRATCH_STREAM, 1000000);
    g_assert_cmpuint((uintptr_t)large % 4096, ==, 0);
    memset(large, 0xaa, 1000000);
    g_assert_true(qimg_scratch_get(QIMG_SCRATCH_STREAM, 5) == large);
    g_assert_cmpint(pthread_create(&thread, NULL, get_scratch, &others), ==, 0);
    pthread_join(thread, NULL);
    g_assert_true(others != large);
    g_assert_cmpuint(large[0], ==, 0xaa);
    /* An impossible size gives NULL, and does no harm to the next call. Sanitizers would
     * end the process instead, unless told otherwise. */
    if (!IS_SANITIZED) {
        g_assert_null(qimg_scratch_get(QIMG_SCRATCH_STREAM, (size_t)1 << 62));
        g_assert_nonnull(qimg_scratch_get(QIMG_SCRATCH_STREAM, 10));
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/workers/parallel", test_parallel);
    g_test_add_func("/workers/parallel-by-many", test_parallel_by_many);
    g_test_add_func("/workers/queue-order", test_queue_order);
    g_test_add_func("/scratch", test_scratch);
    return g_test_run();
}
