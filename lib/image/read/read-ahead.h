/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inflating clusters ahead of a sequential reader. */
#pragma once

#include "image/chain/handle.h"

/* Creates the reader-ahead of @chain; NULL if it would be of no use. */
ReadAhead *read_ahead_new(QimgChain *chain);
void read_ahead_free(ReadAhead *read_ahead);

/* Whether a read at @guest_offset continues the last one of this handle that
 * read_ahead_note recorded. Threads: any; the answer is a hint. */
bool read_ahead_is_sequential(const QimgImage *image, uint64_t guest_offset);

/* Records that a reader reads compressed clusters of @cluster_bytes at @guest_offset.
 * Threads: any, inside the gate. */
void read_ahead_note(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
                     uint64_t cluster_bytes);
