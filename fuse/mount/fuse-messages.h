/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What libfuse and fusermount3 print when they cannot mount becomes one line of ours,
 * with what to do. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Keeps libfuse's messages, and those of programs on standard error, from now on. */
void fuse_messages_begin(void);

/* Ends that. What was printed is printed now if @is_good; otherwise returns the last line
 * of it with what to do, in brackets (free with g_free), and NULL for @is_good. */
char *fuse_messages_end(bool is_good);
