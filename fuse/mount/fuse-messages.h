/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Turns the output of libfuse and fusermount3 about a failed mount into one line with
 * advice. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* From now on, captures libfuse's messages and everything printed to standard error. */
void fuse_messages_begin(void);

/* Ends the capture. If @is_good, prints the captured text and returns NULL; otherwise
 * returns its last line with advice in brackets (free with g_free). */
char *fuse_messages_end(bool is_good);
