/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuse/threads/servers.c and base/wait-hook.c, without a kernel: the number of threads
 * while some wait for a disk, and afterwards. The disk is a stub that answers only when a
 * number of requests wait together; it gives up late rather than hang. */
#include "threads/servers.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>

#include "base/lock.h"
#include "base/wait-hook.h"
#include "test-util.h"

#define N_WANTED   2u
#define N_MAX      16u
#define GIVE_UP_S  60
#define N_PATIENCE 100000u /* hot requests after which threads should be few */

static sem_t requests;          /* not yet taken by a thread */
static sem_t answers;           /* of hot requests */
static atomic_uint n_cold_left; /* atomic: this number of requests waits for the disk */
static atomic_bool is_nested;   /* atomic: waits are nested */
static pthread_mutex_t disk = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t disk_changed = PTHREAD_COND_INITIALIZER;
/* Guarded by disk: */
static unsigned n_in_flight;
static unsigned n_in_flight_max;
static unsigned n_answered;  /* since the last read_cold_together */
static unsigned n_to_gather; /* the disk answers at this number in flight */
static bool is_answering;
static bool has_given_up;

static struct timespec
in_seconds(unsigned n)
{
    struct timespec deadline;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += n;
    return deadline;
}

static void
read_cold(void)
{
    struct timespec deadline = in_seconds(GIVE_UP_S);

    qimg_wait_begin();
    if (is_nested)
        qimg_wait_begin();
    pthread_mutex_lock(&disk);
    n_in_flight++;
    n_in_flight_max = MAX(n_in_flight_max, n_in_flight);
    if (n_in_flight == n_to_gather)
        is_answering = true;
    pthread_cond_broadcast(&disk_changed);
    while (!is_answering)
        if (pthread_cond_timedwait(&disk_changed, &disk, &deadline) == ETIMEDOUT)
            is_answering = has_given_up = true;
    n_in_flight--;
    n_answered++;
    pthread_cond_broadcast(&disk_changed);
    pthread_mutex_unlock(&disk);
    if (is_nested)
        qimg_wait_end();
    qimg_wait_end();
}

static bool
take_cold(void)
{
    unsigned n = atomic_load(&n_cold_left);

    while (n > 0)
        if (atomic_compare_exchange_weak(&n_cold_left, &n, n - 1))
            return true;
    return false;
}

/* Serve. */
static void
serve(void *user, Server *server)
{
    g_assert_true(user == &requests);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    do {
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
        while (sem_wait(&requests) != 0)
            ;
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
        if (take_cold())
            read_cold();
        else
            sem_post(&answers);
    } while (!server_may_end(server));
}

static Servers *
start(unsigned n_wanted, unsigned n_max)
{
    Servers *servers = servers_new(n_wanted, n_max, serve, &requests);

    sem_init(&requests, 0, 0);
    sem_init(&answers, 0, 0);
    g_assert_cmpuint(servers_start(servers), ==, n_wanted);
    return servers;
}

static void
stop(Servers *servers)
{
    servers_stop(servers);
    g_assert_cmpuint(servers_count(servers), ==, 0);
    servers_free(servers);
    sem_destroy(&requests);
    sem_destroy(&answers);
}

/* Sends @n requests that wait for the disk, which answers when @n_gathered of them are
 * there; returns when it has answered all @n. */
static void
read_cold_together(unsigned n, unsigned n_gathered)
{
    pthread_mutex_lock(&disk);
    n_in_flight_max = n_answered = 0;
    n_to_gather = n_gathered;
    is_answering = has_given_up = false;
    pthread_mutex_unlock(&disk);
    atomic_store(&n_cold_left, n);
    for (unsigned i = 0; i < n; i++)
        sem_post(&requests);
    pthread_mutex_lock(&disk);
    while (n_answered < n)
        pthread_cond_wait(&disk_changed, &disk);
    g_assert_false(has_given_up);
    pthread_mutex_unlock(&disk);
}

static void
read_hot(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        sem_post(&requests);
        while (sem_wait(&answers) != 0)
            ;
    }
}

static void
test_in_flight(void)
{
    Servers *servers = start(N_WANTED, N_MAX);

    read_hot(1000);
    g_assert_cmpuint(servers_count(servers), ==, N_WANTED);
    read_cold_together(N_MAX, N_MAX);
    g_assert_cmpuint(servers_count(servers), ==, N_MAX);
    stop(servers);
}

/* A request for bytes in memory is answered while others wait. */
static void
test_hot_among_cold(void)
{
    Servers *servers = start(N_WANTED, N_MAX);

    pthread_mutex_lock(&disk);
    n_to_gather = N_MAX - N_WANTED;
    is_answering = has_given_up = false;
    pthread_mutex_unlock(&disk);
    atomic_store(&n_cold_left, N_MAX - N_WANTED - 1);
    for (unsigned i = 0; i < N_MAX - N_WANTED - 1; i++)
        sem_post(&requests);
    pthread_mutex_lock(&disk);
    while (n_in_flight < N_MAX - N_WANTED - 1 && !is_answering)
        pthread_cond_wait(&disk_changed, &disk);
    pthread_mutex_unlock(&disk);
    read_hot(1000);
    atomic_store(&n_cold_left, 1);
    sem_post(&requests);
    pthread_mutex_lock(&disk);
    while (!is_answering || n_in_flight > 0)
        pthread_cond_wait(&disk_changed, &disk);
    g_assert_false(has_given_up);
    pthread_mutex_unlock(&disk);
    stop(servers);
}

/* No more threads than permitted: further requests wait for a thread. */
static void
test_limit(void)
{
    static const struct {
        unsigned n_wanted, n_max;
    } rows[] = {{N_WANTED, 4}, {N_WANTED, N_WANTED}, {1, 1}};

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        Servers *servers = start(rows[i].n_wanted, rows[i].n_max);

        read_cold_together(100, rows[i].n_max);
        g_assert_cmpuint(n_in_flight_max, ==, rows[i].n_max);
        g_assert_cmpuint(servers_count(servers), <=, rows[i].n_max);
        stop(servers);
    }
    g_assert_cmpuint(servers_limit(1), ==, 1);
    g_assert_cmpuint(servers_limit(2), >, 16);
    g_assert_cmpuint(servers_limit(2), <=, 64);
    g_assert_cmpuint(servers_limit(200), ==, 200);
}

/* Repeatedly: places of ended threads are reused. */
static void
test_back_when_hot(void)
{
    Servers *servers = start(N_WANTED, N_MAX);

    for (unsigned round = 0; round < 5; round++) {
        unsigned n_hot = 0;

        atomic_store(&is_nested, round % 2 == 1);
        read_cold_together(N_MAX, N_MAX);
        for (; servers_count(servers) > N_WANTED && n_hot < N_PATIENCE; n_hot++)
            read_hot(1);
        g_assert_cmpuint(servers_count(servers), ==, N_WANTED);
        read_hot(1000);
        g_assert_cmpuint(servers_count(servers), ==, N_WANTED);
    }
    atomic_store(&is_nested, false);
    stop(servers);
}

static void *
let_go(void *user)
{
    Servers *servers = user;

    while (servers_count(servers) < N_MAX)
        sched_yield();
    pthread_mutex_lock(&disk);
    is_answering = true;
    pthread_cond_broadcast(&disk_changed);
    pthread_mutex_unlock(&disk);
    return NULL;
}

/* The end comes while requests wait for the disk, and threads are being started: it waits
 * for all of them. */
static void
test_end_in_between(void)
{
    for (unsigned round = 0; round < 200; round++) {
        Servers *servers = start(N_WANTED, N_MAX);
        pthread_t thread;

        pthread_mutex_lock(&disk);
        n_to_gather = 0;
        is_answering = has_given_up = false;
        pthread_mutex_unlock(&disk);
        atomic_store(&n_cold_left, 2 * N_MAX);
        for (unsigned i = 0; i < 2 * N_MAX; i++)
            sem_post(&requests);
        g_assert_cmpint(pthread_create(&thread, NULL, let_go, servers), ==, 0);
        if (round % 2 == 0)
            pthread_join(thread, NULL);
        else
            while (servers_count(servers) < N_MAX)
                sched_yield();
        servers_stop(servers);
        if (round % 2 == 1)
            pthread_join(thread, NULL);
        g_assert_cmpuint(n_in_flight, ==, 0);
        stop(servers);
    }
}

/* A thread that waits for another one waits, too. */
static QimgMutex cond_lock;
static QimgCond cond;
static unsigned n_begun, n_ended; /* of this thread */

static void
count_begin(void *user)
{
    g_assert_true(user == &cond);
    n_begun++;
}

static void
count_end(void *user)
{
    g_assert_true(user == &cond);
    n_ended++;
}

static void
test_hook(void)
{
    const QimgWaitHook hook = {count_begin, count_end, &cond};
    struct timespec past = {.tv_sec = 1};

    qimg_wait_begin(); /* no hook */
    qimg_wait_end();
    qimg_wait_hook_set(&hook);
    qimg_wait_begin();
    qimg_wait_begin();
    qimg_wait_end();
    g_assert_cmpuint(n_begun, ==, 1);
    g_assert_cmpuint(n_ended, ==, 0);
    qimg_wait_end();
    g_assert_cmpuint(n_ended, ==, 1);
    qimg_mutex_init(&cond_lock, QIMG_RANK_CACHE);
    qimg_cond_init(&cond);
    qimg_mutex_lock(&cond_lock);
    g_assert_false(qimg_cond_wait_until(&cond, &cond_lock, &past));
    qimg_mutex_unlock(&cond_lock);
    g_assert_cmpuint(n_begun, ==, 2);
    g_assert_cmpuint(n_ended, ==, 2);
    qimg_cond_clear(&cond);
    qimg_mutex_clear(&cond_lock);
    qimg_wait_hook_set(NULL);
    qimg_wait_begin();
    qimg_wait_end();
    g_assert_cmpuint(n_begun, ==, 2);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/servers/in-flight", test_in_flight);
    g_test_add_func("/servers/hot-among-cold", test_hot_among_cold);
    g_test_add_func("/servers/limit", test_limit);
    g_test_add_func("/servers/back-when-hot", test_back_when_hot);
    g_test_add_func("/servers/end-in-between", test_end_in_between);
    g_test_add_func("/servers/hook", test_hook);
    return g_test_run();
}
