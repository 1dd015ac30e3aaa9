/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SIGINT, SIGTERM and SIGHUP during a long task: the first one ends the task in order, a
 * second one kills the process. One task at a time. */
#pragma once

#include <stdbool.h>

/* From now on, the first signal calls @stop, which may be NULL, in the signal handler.
 * Ignored signals (nohup) stay ignored. */
void interrupt_begin(void (*stop)(void *user), void *user);

/* Whether a signal has arrived since the last interrupt_begin. */
bool interrupt_is_asked(void);

/* From now on signals kill the process. */
void interrupt_end(void);
