/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of a copy (copy/copy-out.c, where its phases are), for the parts of it.
 *
 * I1  The bytes that a run wrote below its journal's offset are the disk's content (zeros
 *     for ranges listed in the journal), and on stable storage. A later run does not know
 *     whether the target still has them: see COPY_BOUND.
 *
 * I2  A regular file is cut at that offset before a copy resumes, so that everything that
 *     the copy does not write behind it is a hole.
 *
 * I3  Nothing is written to a file of the chain.
 *
 * I4  A run never removes files that it has not created, and removes or replaces a name
 *     only while it belongs to the file that the run has open. */
#pragma once

#include "copy/copy-binding.h"
#include "copy/copy-digest.h"
#include "copy/copy-rescue.h"

#define COPY_MAX_THREADS 256u

typedef enum {
    COPY_EMPTY,
    COPY_BOUND,
    COPY_FILLING,
    COPY_VERIFIED,
    COPY_NAMED,
} CopyPhase;

struct QimgCopy {
    QimgImage *image;
    QimgCopyOptions options; /* its texts are owned */
    QimgCopyReport report;
    _Atomic bool stop; /* atomic, relaxed: publishes no other data */
    CopyPhase phase;
    bool is_prepared;
    bool is_void; /* the copied bytes are useless */
    CopyWish wish;
    CopyBinding binding;
    RangeLog log;
    FileDigests *files;
    CopyDigest *digests[COPY_N_DIGESTS];
    char *results[COPY_N_DIGESTS]; /* of these; NULL until the end */
};
