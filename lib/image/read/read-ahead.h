/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inflating clusters ahead of a sequential reader. */
#pragma once

#include "image/chain/handle.h"

/* The reader-ahead of @chain; NULL where it would be of no use. */
ReadAhead *read_ahead_new(QimgChain *chain);
void read_ahead_free(ReadAhead *read_ahead);

/* Whether a read at @guest_offset goes on where the last one of this handle ended that
 * read_ahead_note was told of. Threads: any; the answer is a hint. */
bool read_ahead_is_sequential(const QimgImage *image, uint64_t guest_offset);

/* Notes that a reader reads compressed clusters of @cluster_bytes at @guest_offset.
 * Threads: any, inside the gate. */
void read_ahead_note(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
                     uint64_t cluster_bytes);
