/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SIGINT, SIGTERM and SIGHUP during a long task: the first one ends the task in order, a
 * second one the process. One task at a time. */
#pragma once

#include <stdbool.h>

/* Begins to wait for signals; the first one calls @stop, which may be NULL, in the signal
 * handler. What the process ignores (nohup) stays ignored. */
void interrupt_begin(void (*stop)(void *user), void *user);

/* Whether a signal has come since the last interrupt_begin. */
bool interrupt_is_asked(void);

/* From now on signals end the process. */
void interrupt_end(void);
