/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A line on the terminal that tells how far a long task has come. Nothing is printed
 * where standard error is no terminal. One task at a time, in one thread. */
#pragma once

#include <stdint.h>

/* Begins to show @what (a word or two, static), of which there are @total units (bytes).
 */
void progress_begin(const char *what, uint64_t total);

/* Tells that @done units are done; may be called as often as one likes. */
void progress_update(uint64_t done);

/* Begins to show a share alone, of a task whose total may change. */
void progress_begin_share(const char *what);
void progress_update_share(uint64_t done, uint64_t total);

/* Removes the line. */
void progress_end(void);
