/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each request counts itself in one of several shards, each on its own cache line, and
 * there in one of two phases. A waiter flips the phase and waits until the old one is
 * empty in all shards.
 *
 * I1  A request that has counted itself, and then found the gate open, is inside: the
 *     closer of the gate sees its count, since both write first and read then
 *     (sequentially consistent).
 *
 * I2  A request may count itself in a phase that was flipped just before; so the phase is
 *     flipped twice, and no request is missed. */
#include "base/gate.h"

#include <glib.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/lock.h"
#include "base/wait-hook.h"

#define N_SHARDS 8u
#define N_SPINS  200u
#define NAP_US   50u

typedef struct {
    _Alignas(64) _Atomic uint64_t n_inside[2]; /* atomic: by phase */
} Shard;

struct QimgGate {
    Shard shards[N_SHARDS];
    /* atomic: grows before a wait for requests, whose caller frees memory that was
     * unreachable before, and while the gate is closed and empty */
    _Atomic uint64_t epoch;
    atomic_uint phase;     /* atomic: 0 or 1; changed by the holder of the lock turns */
    atomic_bool is_closed; /* atomic; changed under lock */
    QimgMutex turns;       /* rank QIMG_RANK_TURNS: serializes waits for requests */
    QimgMutex lock;        /* rank QIMG_RANK_GATE */
    QimgCond changed;      /* signalled when is_closed changes */
};

static unsigned
my_shard(void)
{
    static atomic_uint n_threads;
    static _Thread_local unsigned mine; /* shard + 1 */

    if (mine == 0)
        mine =
            atomic_fetch_add_explicit(&n_threads, 1, memory_order_relaxed) % N_SHARDS + 1;
    return mine - 1;
}

QimgGate *
qimg_gate_new(void)
{
    QimgGate *gate = aligned_alloc(64, (sizeof *gate + 63) & ~(size_t)63);

    if (!gate)
        g_error("no memory for a gate");
    *gate = (QimgGate){.is_closed = false};
    qimg_mutex_init(&gate->turns, QIMG_RANK_TURNS);
    qimg_mutex_init(&gate->lock, QIMG_RANK_GATE);
    qimg_cond_init(&gate->changed);
    return gate;
}

void
qimg_gate_free(QimgGate *gate)
{
    if (!gate)
        return;
    qimg_cond_clear(&gate->changed);
    qimg_mutex_clear(&gate->lock);
    qimg_mutex_clear(&gate->turns);
    free(gate);
}

static void
wait_until_open(QimgGate *gate)
{
    QIMG_LOCK_SCOPE(&gate->lock);

    while (atomic_load(&gate->is_closed))
        qimg_cond_wait(&gate->changed, &gate->lock);
}

unsigned
qimg_gate_enter(QimgGate *gate)
{
    unsigned shard, phase;

    if (!gate)
        return 0;
    shard = my_shard();
    for (;;) {
        phase = atomic_load(&gate->phase);
        atomic_fetch_add(&gate->shards[shard].n_inside[phase], 1); /* I1 */
        if (!atomic_load(&gate->is_closed))
            return shard * 2 + phase;
        atomic_fetch_sub(&gate->shards[shard].n_inside[phase], 1);
        wait_until_open(gate);
    }
}

void
qimg_gate_leave(QimgGate *gate, unsigned ticket)
{
    if (gate) /* release: pairs with the acquire in wait_for_phase */
        atomic_fetch_sub_explicit(&gate->shards[ticket / 2].n_inside[ticket % 2], 1,
                                  memory_order_release);
}

static void
wait_for_phase(QimgGate *gate, unsigned phase)
{
    for (unsigned i = 0; i < N_SHARDS; i++) {
        unsigned n_tries = 0;

        while (atomic_load(&gate->shards[i].n_inside[phase]) != 0) {
            if (++n_tries < N_SPINS) {
                sched_yield();
                continue;
            }
            qimg_wait_begin();
            g_usleep(NAP_US);
            qimg_wait_end();
        }
    }
}

void
qimg_gate_wait_for_requests(QimgGate *gate)
{
    if (!gate)
        return;
    qimg_lock_assert_none_held();
    qimg_mutex_lock(&gate->turns);
    atomic_fetch_add(&gate->epoch, 1);
    for (unsigned i = 0; i < 2; i++) { /* I2 */
        unsigned phase = atomic_load(&gate->phase);

        atomic_store(&gate->phase, phase ^ 1);
        wait_for_phase(gate, phase);
    }
    qimg_mutex_unlock(&gate->turns);
}

uint64_t
qimg_gate_get_epoch(const QimgGate *gate)
{
    return gate ? atomic_load(&gate->epoch) : 0;
}

void
qimg_gate_close(QimgGate *gate)
{
    if (!gate)
        return;
    qimg_mutex_lock(&gate->lock);
    while (atomic_load(&gate->is_closed))
        qimg_cond_wait(&gate->changed, &gate->lock);
    atomic_store(&gate->is_closed, true);
    qimg_mutex_unlock(&gate->lock);
    wait_for_phase(gate, 0);
    wait_for_phase(gate, 1);
    atomic_fetch_add(&gate->epoch, 1);
}

void
qimg_gate_open(QimgGate *gate)
{
    if (!gate)
        return;
    QIMG_LOCK_SCOPE(&gate->lock);
    atomic_store(&gate->is_closed, false);
    qimg_cond_broadcast(&gate->changed);
}
