/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ring of pieces. */
#pragma once

#include "copy/copy-compare.h"
#include "copy/copy-digest.h"
#include "copy/copy-plan.h"
#include "copy/copy-target.h"

/* The result of a piece. */
typedef struct {
    CopyPiece piece;
    uint64_t data_bytes; /* in granules that are not zeros */
    GArray *bad;         /* QimgUnreadable; NULL: none */
    QimgErrno read_error;
    QimgErrno write_error;
    QimgErrno compare_error;
    uint64_t different_offset; /* or COPY_NO_DIFFERENCE */
} CopyResult;

typedef struct {
    QimgImage *image;
    CopyTarget *target;
    uint64_t size_bytes;      /* up to here */
    uint64_t begin_offset;    /* from here */
    const CopyReader *reader; /* not NULL: only compare with it, write nothing */
    const GArray *listed;     /* QimgUnreadable: compare these as zeros; NULL: none */
    unsigned n_threads;
    CopyDigest *digests[COPY_N_DIGESTS]; /* NULL: not requested; of everything from
                                            begin_offset */
    const _Atomic bool *stop;            /* atomic, relaxed: set by anyone at any time */
    /* Called in the calling thread for each piece in the order of the disk; false ends
     * the copy. */
    bool (*consume)(void *user, const CopyResult *result, GError **error);
    /* Called in the calling thread: the copy is complete up to @done_bytes. May be
     * NULL. */
    void (*on_progress)(void *user, uint64_t done_bytes);
    void *user;
} CopyJob;

/* Copies all pieces. False with @error if consume returned false, or if threads or memory
 * are short; false without @error once *@stop is set. */
bool copy_engine_run(const CopyJob *job, GError **error);
