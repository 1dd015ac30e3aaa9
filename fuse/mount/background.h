/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Goes to the background in two steps, so that failures between them still appear on the
 * terminal and in the exit status. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Returns in a new process, in its own session, with the descriptor for background_enter;
 * the first process waits for that call and exits. Call before any thread is made.
 * Returns -1 with @error set. */
int background_fork(GError **error);

/* Leaves the terminal; the first process exits with status 0. If this process ends
 * without calling it, the first one exits with status 1. */
void background_enter(int ready_fd);

/* Replaces the standard descriptors by /dev/null. */
void background_leave_terminal(void);
