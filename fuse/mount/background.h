/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Going to the background in two steps, so that what fails between them is still told on
 * the terminal, with the exit status of a failure. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Returns in a new process, in a session of its own, with the number that
 * background_enter wants; the first process waits for that, and exits. Before any thread
 * is made. Returns -1 with @error set. */
int background_fork(GError **error);

/* Leaves the terminal; the first process exits with status 0. If this is never called, it
 * exits with status 1 when this process ends. */
void background_enter(int ready_fd);

/* Replaces the standard descriptors by /dev/null. */
void background_leave_terminal(void);
