/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A gate that many requests pass at once without touching shared memory, and that can be
 * closed for one exclusive change. It also waits for all requests in flight at some
 * moment, so that memory that only they can still use may be freed.
 *
 * A request inside must neither enter again nor call any function below. */
#pragma once

#include "base/types.h"

typedef struct QimgGate QimgGate;

QimgGate *qimg_gate_new(void);

/* No request may be inside. Accepts NULL. */
void qimg_gate_free(QimgGate *gate);

/* Enters the gate; waits while it is closed. Pass the result to qimg_gate_leave, in the
 * same thread. If @gate is NULL, nothing happens. Threads: any; no lock may be held. */
unsigned qimg_gate_enter(QimgGate *gate) QIMG_MUST_CHECK;
void qimg_gate_leave(QimgGate *gate, unsigned ticket);

/* Closes the gate and waits until it is empty; reopens it. Exclusive changes take turns.
 * The next holder sees all effects of the previous one. */
void qimg_gate_close(QimgGate *gate);
void qimg_gate_open(QimgGate *gate);

/* Waits until all requests now inside have left; new ones may enter meanwhile. The thread
 * that closed the gate may also call it. */
void qimg_gate_wait_for_requests(QimgGate *gate);

/* How often a wait for requests began, or the gate was closed. An object found inside the
 * gate after one call, and used again inside after another call with the same result, was
 * not freed in between. 0 if @gate is NULL. Threads: any. */
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
