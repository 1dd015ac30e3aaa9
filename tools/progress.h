/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A line on the terminal that tells how far a long task has come, and signals that end
 * it (interrupt.h). Nothing is printed where standard error is no terminal. One task at a
 * time, in one thread. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Begins to show @what (a word or two, static), with the amount and the rate where
 * @in_bytes; with @is_quiet nothing is shown. */
void progress_begin(const char *what, bool in_bytes, bool is_quiet);

/* A QimgProgress: tells that @done units of @total are done; may be called as often as
 * one likes. FALSE once a signal has asked for the end. */
gboolean progress_update(uint64_t done, uint64_t total, void *user);

/* Removes the line. */
void progress_end(void);
