/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/gate.h"

#include <pthread.h>
#include <stdatomic.h>

#include "test-util.h"

#define N_THREADS 4u
#define N_ROUNDS  300u

typedef struct {
    QimgGate *gate;
    _Atomic(int *) shared; /* used by requests; freed after they have ended */
    int plain;             /* changed with the gate closed, read inside */
    atomic_bool is_over;
} Case;

/* A request reads the object present at its entry; sanitizers, and its value, would
 * reveal a freed one. */
static void *
request(void *user)
{
    Case *c = user;

    while (!atomic_load(&c->is_over)) {
        QIMG_GATE_SCOPE(c->gate);
        int *mine = atomic_load(&c->shared);

        for (unsigned i = 0; i < 50; i++)
            g_assert_cmpint(*mine, ==, 1);
        g_assert_cmpint(c->plain % 2, ==, 0);
    }
    return NULL;
}

static void
start(Case *c, pthread_t *threads)
{
    *c = (Case){.gate = qimg_gate_new()};
    atomic_store(&c->shared, g_new(int, 1));
    *atomic_load(&c->shared) = 1;
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_create(&threads[i], NULL, request, c);
}

static void
stop(Case *c, pthread_t *threads)
{
    atomic_store(&c->is_over, true);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    g_free(atomic_load(&c->shared));
    qimg_gate_free(c->gate);
}

static void
test_grace(void)
{
    pthread_t threads[N_THREADS];
    Case c;

    start(&c, threads);
    for (unsigned i = 0; i < N_ROUNDS; i++) {
        int *old = atomic_load(&c.shared);
        int *new = g_new(int, 1);

        *new = 1;
        atomic_store(&c.shared, new);
        qimg_gate_wait_for_requests(c.gate);
        *old = 2; /* no reader is left */
        g_free(old);
    }
    stop(&c, threads);
}

static void
test_exclusive(void)
{
    pthread_t threads[N_THREADS];
    Case c;

    start(&c, threads);
    for (unsigned i = 0; i < N_ROUNDS; i++) {
        qimg_gate_close(c.gate);
        c.plain++;
        qimg_gate_wait_for_requests(c.gate); /* the gate is empty: returns */
        c.plain++;
        qimg_gate_open(c.gate);
    }
    stop(&c, threads);
}

static void
test_none(void)
{
    QIMG_GATE_SCOPE(NULL);

    qimg_gate_close(NULL);
    qimg_gate_wait_for_requests(NULL);
    qimg_gate_open(NULL);
    qimg_gate_free(NULL);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/gate/grace", test_grace);
    g_test_add_func("/gate/exclusive", test_exclusive);
    g_test_add_func("/gate/none", test_none);
    return g_test_run();
}
