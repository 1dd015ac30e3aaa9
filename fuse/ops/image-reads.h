/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Answers reads of images, at once or when their bytes have come from the disk. */
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "threads/pending-reads.h"

/* The calling thread's reads that would wait are added to @pending from now on. NULL:
 * each is waited for. */
void image_reads_set_pending(PendingReads *pending);

/* Answers @req with at most @size bytes of @image at @guest_offset, now or by
 * image_reads_answer_pending; @image stays open until then. @buffer: of @size bytes, used
 * until the call returns. */
void image_reads_answer(fuse_req_t req, QimgImage *image, char *buffer, size_t size,
                        uint64_t guest_offset);

/* Answers the requests in @pending whose bytes have been read. */
void image_reads_answer_pending(PendingReads *pending);

/* The calling thread's buffer for answers, MAX_REQUEST_BYTES long; NULL if memory is
 * short. */
char *image_reads_buffer(void);
