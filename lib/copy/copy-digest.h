/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests of copied bytes, and of the source files. */
#pragma once

#include <stdatomic.h>

#include "qimg.h"

/* The digests of QimgDigest. */
#define COPY_N_DIGESTS (QIMG_DIGEST_SHA256 + 1)

typedef struct CopyDigest CopyDigest;

/* Begins a digest; NULL with @error if the machine's policy forbids it. */
CopyDigest *copy_digest_new(QimgDigest kind, GError **error);
/* Adds bytes, or that many zeros if @bytes is NULL. */
void copy_digest_add(CopyDigest *digest, const uint8_t *bytes, uint64_t n_bytes);
/* Ends @digest and frees it; its text in hexadecimal (free with g_free). */
char *copy_digest_finish(CopyDigest *digest);
void copy_digest_free(CopyDigest *digest);

/* The digests of one file. */
typedef struct {
    const char *path;              /* borrowed from the image */
    char *digests[COPY_N_DIGESTS]; /* in hexadecimal; NULL: not requested, or failed */
    char *error;                   /* why they failed; else NULL */
} FileDigest;

/* Digests of the chain's files, computed by separate threads. */
typedef struct FileDigests FileDigests;

/* Begins the digests @kinds (bits) of the files of @image, which must outlive them, by at
 * most @n_threads threads, which end early when *@stop is set. */
FileDigests *file_digests_start(const QimgImage *image, unsigned kinds,
                                unsigned n_threads, const _Atomic bool *stop);
/* Waits for the threads. */
void file_digests_join(FileDigests *digests);
/* After the join: the number of files, and one of them, owned by @digests. */
unsigned file_digests_get_n(const FileDigests *digests);
const FileDigest *file_digests_get(const FileDigests *digests, unsigned file);
/* Joins and frees; accepts NULL. */
void file_digests_free(FileDigests *digests);
