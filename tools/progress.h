/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A progress line for a long task on the terminal, and signals that end the task
 * (interrupt.h). Prints nothing if standard error is no terminal. One task at a time, in
 * one thread. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Begins to show @what (a word or two, static), with @in_bytes also the amount and the
 * rate; with @is_quiet shows nothing. */
void progress_begin(const char *what, bool in_bytes, bool is_quiet);

/* A QimgProgress: @done units of @total are done; cheap enough for any rate of calls.
 * FALSE once a signal has asked for the end. */
gboolean progress_update(uint64_t done, uint64_t total, void *user);

/* Removes the line. */
void progress_end(void);
