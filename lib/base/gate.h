/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A gate that many requests pass at once, without touching memory that they share, and
 * that can be closed for one exclusive change. It also tells when all requests that were
 * under way at some moment have ended, so that what only they can still use may go.
 *
 * A request that is inside must not enter again, nor call anything below. */
#pragma once

#include "base/types.h"

typedef struct QimgGate QimgGate;

QimgGate *qimg_gate_new(void);

/* Nobody may be inside. Accepts NULL. */
void qimg_gate_free(QimgGate *gate);

/* Enters as one of many; waits while the gate is closed. Give the result to
 * qimg_gate_leave, in the same thread. @gate may be NULL: then nothing happens.
 * Threads: any; no lock may be held. */
unsigned qimg_gate_enter(QimgGate *gate) QIMG_MUST_CHECK;
void qimg_gate_leave(QimgGate *gate, unsigned ticket);

/* Closes the gate and waits until nobody is inside; opens it again. Exclusive changes
 * take turns. What one thread did inside is seen by the next. */
void qimg_gate_close(QimgGate *gate);
void qimg_gate_open(QimgGate *gate);

/* Waits until all requests that are inside now have left; new ones may enter meanwhile.
 * May be called while the gate is closed by the same thread. */
void qimg_gate_wait_for_requests(QimgGate *gate);

/* How many times somebody has begun to wait for requests, or closed the gate: what was
 * found inside the gate after one call, and is looked at again inside after another one
 * with the same result, has not been freed in between. 0 where @gate is NULL. Threads:
 * any. */
uint64_t qimg_gate_get_epoch(const QimgGate *gate);

typedef struct {
    QimgGate *gate;
    unsigned ticket;
} QimgGateScope;

static inline void
qimg_gate_scope_end(QimgGateScope *scope)
{
    qimg_gate_leave(scope->gate, scope->ticket);
}

/* Inside the gate until the end of the enclosing block. */
#define QIMG_GATE_SCOPE(g)                                                               \
    __attribute__((cleanup(qimg_gate_scope_end), unused))                                \
    QimgGateScope qimg_gate_scope_here = {(g), qimg_gate_enter(g)}
