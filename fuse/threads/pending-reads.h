/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that wait for a disk while their serving thread receives others. Meanwhile an
 * io_uring, restricted to reading, brings the missing bytes into the page cache; then the
 * thread repeats the request.
 *
 * An object belongs to one serving thread at a time. */
#pragma once

#include <stdbool.h>

#include "qimg.h"

typedef struct PendingReads PendingReads;

/* For a thread that receives requests from @device_fd. Call before the sandbox is
 * entered. NULL: the kernel refuses. */
PendingReads *pending_reads_new(int device_fd);

/* All requests must have been taken. Accepts NULL. */
void pending_reads_free(PendingReads *pending);

/* The longest request that may be added, */
#define PENDING_READ_MAX_BYTES ((size_t)64 << 10)
/* and the longest of which the bytes are kept. */
#define PENDING_READ_MAX_KEPT_BYTES ((size_t)16 << 10)

/* Adds @request, which waits for the bytes at @place; @keeps: they are wanted. False:
 * there are too many. */
bool pending_reads_add(PendingReads *pending, QimgReadPlace place, bool keeps,
                       void *request);

/* The number of requests added and not yet taken. NULL: 0. */
unsigned pending_reads_count(const PendingReads *pending);

/* Takes a request whose read has ended. *@n_bytes_out: number of read bytes, or a negated
 * errno. *@bytes_out: these, valid until the next request is added; NULL if they were not
 * to be kept. NULL: none now. */
void *pending_reads_take(PendingReads *pending, const uint8_t **bytes_out,
                         int *n_bytes_out);

/* Waits until a request can be taken, one being pending. */
void pending_reads_wait(PendingReads *pending);

/* Waits until a request may be taken or received. A cancellation point. */
void pending_reads_wait_or_receive(PendingReads *pending);

/* Whether the next new read will probably wait, as the last ones did: several places are
 * then read by one system call. Now and then false all the same, so that the caller
 * notices a change. */
bool pending_reads_expect_wait(PendingReads *pending);

/* A new read, without such an expectation, had to wait or not. */
void pending_reads_note(PendingReads *pending, bool has_waited);
