/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Places for threads under one lock, which is taken only to start and to end a thread.
 *
 * I1  n_ready counts the threads that run and do not wait for a disk: a starting thread
 *     counts before it runs, an ending one until it has decided to end.
 *
 * I2  A place that is not FREE has a thread to be joined: an ENDED one is joined by the
 *     next thread that gets the place, or by servers_stop. */
#include "threads/servers.h"

#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/lock.h"
#include "base/wait-hook.h"

/* Limits memory: each thread keeps buffers for a request and its answer. */
#define MAX_THREADS 64u
/* This many requests without a wait show that a thread is not needed: few against the
 * cost of a new thread, many against an occasional wait. */
#define MAX_IDLE_REQUESTS 64u

typedef enum { PLACE_FREE, PLACE_RUNS, PLACE_ENDED } PlaceState;

struct Server {
    Servers *servers;
    QimgWaitHook hook;
    pthread_t thread; /* guarded by lock */
    PlaceState state; /* guarded by lock */
};

struct Servers {
    Serve serve;          /* const */
    void *user;           /* const */
    unsigned n_wanted;    /* const: number of threads that do not wait */
    unsigned max_threads; /* const */
    atomic_uint n_ready;  /* atomic, relaxed: see I1; grows with new threads and shrinks
                             with ending ones, under lock */
    QimgMutex lock;       /* rank QIMG_RANK_SERVERS */
    bool is_stopped;      /* guarded by lock */
    unsigned n_running;   /* guarded by lock: number of places in PLACE_RUNS */
    Server places[];      /* max_threads */
};

static _Thread_local unsigned n_since_wait; /* requests of this thread */

unsigned
servers_limit(unsigned n_threads)
{
    return n_threads == 1 ? 1 : MAX(n_threads, MAX_THREADS);
}

static unsigned
count_ready(Servers *servers)
{
    return atomic_load_explicit(&servers->n_ready, memory_order_relaxed);
}

static void *
run_server(void *user)
{
    Server *server = user;

    qimg_wait_hook_set(&server->hook);
    server->servers->serve(server->servers->user, server);
    return NULL;
}

/* Starts a thread if fewer than wanted are ready. */
static void
start_thread(Servers *servers)
{
    QIMG_LOCK_SCOPE(&servers->lock);
    Server *server = servers->places;

    if (servers->is_stopped || servers->n_running == servers->max_threads ||
        count_ready(servers) >= servers->n_wanted)
        return;
    while (server->state == PLACE_RUNS)
        server++;
    if (server->state == PLACE_ENDED)
        pthread_join(server->thread, NULL);
    server->state = PLACE_FREE;
    atomic_fetch_add_explicit(&servers->n_ready, 1, memory_order_relaxed);
    if (pthread_create(&server->thread, NULL, run_server, server) != 0) {
        atomic_fetch_sub_explicit(&servers->n_ready, 1, memory_order_relaxed);
        return;
    }
    server->state = PLACE_RUNS;
    servers->n_running++;
}

/* QimgWaitHook. */
static void
begin_wait(void *user)
{
    Server *server = user;
    Servers *servers = server->servers;

    n_since_wait = 0;
    if (atomic_fetch_sub_explicit(&servers->n_ready, 1, memory_order_relaxed) <=
        servers->n_wanted)
        start_thread(servers);
}

static void
end_wait(void *user)
{
    Server *server = user;

    atomic_fetch_add_explicit(&server->servers->n_ready, 1, memory_order_relaxed);
}

/* Decrements n_ready, unless fewer than wanted would be left. */
static bool
leave_ready(Servers *servers)
{
    unsigned n_ready = count_ready(servers);

    while (n_ready > servers->n_wanted)
        if (atomic_compare_exchange_weak_explicit(&servers->n_ready, &n_ready,
                                                  n_ready - 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return true;
    return false;
}

bool
server_may_end(Server *server)
{
    Servers *servers = server->servers;

    if (++n_since_wait < MAX_IDLE_REQUESTS || count_ready(servers) <= servers->n_wanted)
        return false;
    QIMG_LOCK_SCOPE(&servers->lock);
    if (servers->is_stopped || !leave_ready(servers))
        return false;
    servers->n_running--;
    server->state = PLACE_ENDED;
    return true;
}

unsigned
server_place(const Server *server)
{
    return (unsigned)(server - server->servers->places);
}

Servers *
servers_new(unsigned n_threads, unsigned max_threads, Serve serve, void *user)
{
    Servers *servers = g_malloc0(sizeof *servers + max_threads * sizeof(Server));

    servers->serve = serve;
    servers->user = user;
    servers->n_wanted = n_threads;
    servers->max_threads = max_threads;
    qimg_mutex_init(&servers->lock, QIMG_RANK_SERVERS);
    for (unsigned i = 0; i < max_threads; i++) {
        Server *server = &servers->places[i];

        server->servers = servers;
        server->hook =
            (QimgWaitHook){.begin = begin_wait, .end = end_wait, .user = server};
    }
    return servers;
}

unsigned
servers_start(Servers *servers)
{
    for (unsigned i = 0; i < servers->n_wanted; i++)
        start_thread(servers);
    return servers_count(servers);
}

unsigned
servers_count(Servers *servers)
{
    QIMG_LOCK_SCOPE(&servers->lock);

    return servers->n_running;
}

void
servers_stop(Servers *servers)
{
    qimg_mutex_lock(&servers->lock);
    servers->is_stopped = true; /* no place changes from here on */
    qimg_mutex_unlock(&servers->lock);
    for (unsigned i = 0; i < servers->max_threads; i++)
        if (servers->places[i].state == PLACE_RUNS)
            pthread_cancel(servers->places[i].thread);
    for (unsigned i = 0; i < servers->max_threads; i++) {
        Server *server = &servers->places[i];

        if (server->state != PLACE_FREE)
            pthread_join(server->thread, NULL);
        server->state = PLACE_FREE;
    }
    servers->n_running = 0;
}

void
servers_free(Servers *servers)
{
    if (!servers)
        return;
    qimg_mutex_clear(&servers->lock);
    g_free(servers);
}
