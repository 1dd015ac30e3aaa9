/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private parts of copying a disk out (image/copy-out.c), from the bottom up: the plan,
 * zeros, rescue, digests, the target, the journal, the engine.
 *
 * I1  What the target holds below the offset that a journal says is what the disk holds
 *     there (zeros for ranges that the journal lists), and is on stable storage.
 * I2  Behind that offset a regular file is cut off before a copy goes on, so that all it
 *     does not write there is a hole.
 * I3  Nothing is written to a file of the chain. */
#pragma once

#include "image/compressed.h"
#include "image/handle.h"
#include "image/read.h"
#include "image/runs.h"

/* Zeros are left out in granules of this size: a page, and the block of most file
 * systems. */
#define COPY_GRANULE_BYTES   4096u
#define COPY_MIN_CHUNK_BYTES QIMG_MIB
/* A hole that somebody has to write or to digest comes in pieces of this size, after each
 * of which the copy can stop. */
#define COPY_HOLE_PIECE_BYTES (64 * QIMG_MIB)
/* Unreadable ranges that are kept: 1.5 MiB. */
#define COPY_MAX_LISTED  65536u
#define COPY_MAX_THREADS 256u

/* ---- image/copy-plan.c ----------------------------------------------------------------
 */

typedef struct {
    uint64_t guest_offset;
    uint64_t length_bytes;
    bool is_hole; /* zeros, without reading them */
} CopyPiece;

/* Cuts a disk into pieces that follow each other without a gap: holes, and chunks that
 * hold data, whose ends are multiples of the chunk's size. */
typedef struct {
    uint64_t size_bytes;
    uint64_t chunk_bytes;    /* a power of two */
    uint64_t max_hole_bytes; /* a multiple of the chunk */
    uint64_t next_offset;    /* where the next piece begins */
    uint64_t data_offset;    /* all from next_offset to here is known to be a hole */
    /* As qimg_image_seek for data. */
    QimgErrno (*find_data)(void *user, uint64_t guest_offset, uint64_t *offset_out);
    void *user;
} CopyPlan;

/* Gives the next piece; false at the disk's end. Where find_data fails the piece is data:
 * who reads it learns what is wrong. */
bool copy_plan_next(CopyPlan *plan, CopyPiece *out);

/* ---- image/copy-zeros.c ---------------------------------------------------------------
 */

/* Zeros that are written or digested at once, of base/zeros.h. */
#define COPY_ZEROS_BYTES (64 * QIMG_KIB)

/* Finds the next run of granules with data at or behind @*start_inout, an offset in
 * @buffer at the start of a granule: false when all is zeros up to @n_bytes, else the run
 * is [*@start_inout, *@end_out). The last granule may be short. Pure. */
bool copy_find_data(const uint8_t *buffer, size_t n_bytes, size_t *start_inout,
                    size_t *end_out);

/* ---- image/copy-rescue.c --------------------------------------------------------------
 */

/* Whether @err, of a read, says that the place cannot be read, rather than that reading
 * is impossible now. */
bool copy_is_unreadable(QimgErrno err);

/* Reads what can be read of the range into @buffer, with zeros for the rest, which is
 * added to @bad (QimgUnreadable). Places are told apart down to sectors of the host, and
 * clusters where they are compressed. Slow. Errors: those that copy_is_unreadable is not
 * true for, -ECANCELED once *@stop is set. */
QimgErrno copy_rescue(QimgImage *image, uint64_t guest_offset, size_t length_bytes,
                      uint8_t *buffer, const _Atomic bool *stop, GArray *bad)
    QIMG_MUST_CHECK;

/* The unreadable ranges of a disk, in order; neighbours with one reason are one range. */
typedef struct {
    GArray *listed;      /* QimgUnreadable: the first COPY_MAX_LISTED that are complete */
    QimgUnreadable last; /* may still grow; no length: none */
    uint64_t n_ranges;   /* with the last */
    uint64_t n_bytes;
    void (*on_complete)(const QimgUnreadable *range, void *user); /* may be NULL */
    void *user;
} RangeLog;

void range_log_init(RangeLog *log, void (*on_complete)(const QimgUnreadable *, void *),
                    void *user);
void range_log_clear(RangeLog *log);
/* Adds a range behind all others. */
void range_log_add(RangeLog *log, const QimgUnreadable *range);
/* Completes the last range. */
void range_log_finish(RangeLog *log);
/* A copy of the listed ranges and the last one; free with g_array_unref. NULL when there
 * are more than are listed. */
GArray *range_log_snapshot(const RangeLog *log);

/* ---- image/copy-digest.c --------------------------------------------------------------
 */

typedef struct CopyDigest CopyDigest;

/* Begins a digest; NULL with @error where the machine's policy forbids it. */
CopyDigest *copy_digest_new(QimgDigest kind, GError **error);
/* Adds bytes, or that many zeros where @bytes is NULL. */
void copy_digest_add(CopyDigest *digest, const uint8_t *bytes, uint64_t n_bytes);
/* Ends @digest and frees it; its text in hexadecimal (free with g_free). */
char *copy_digest_finish(CopyDigest *digest);
void copy_digest_free(CopyDigest *digest);

/* Digests of the chain's files as they are, computed by threads of their own. */
typedef struct FileDigests FileDigests;

/* Begins the digests @kinds (bits) of the files of layer @first_layer and those below, by
 * at most @n_threads threads, which end early when *@stop is set. */
FileDigests *file_digests_start(QimgChain *chain, unsigned first_layer, unsigned kinds,
                                unsigned n_threads, const _Atomic bool *stop);
/* Waits for the threads. */
void file_digests_join(FileDigests *digests);
/* After the join: an array, owned by @digests. */
const QimgFileDigests *file_digests_get(const FileDigests *digests, unsigned *n_out);
/* Joins and frees; accepts NULL. */
void file_digests_free(FileDigests *digests);

/* ---- image/copy-target.c --------------------------------------------------------------
 */

typedef struct {
    QimgStorage *storage; /* NULL: a stream */
    int stream_fd;
    bool is_device;
    bool keeps_zeros; /* zeros are written like data */
    bool is_new;      /* was made by this run */
} CopyTarget;

/* Whether the file of @status is one of @image's chain, those above its first layer, too.
 */
bool copy_is_chain_file(const QimgImage *image, const struct stat *status);

/* Opens and locks @path, a block device or a regular file, which is made where it is
 * missing; nothing that is there changes. A device must have room for @size_bytes. */
bool copy_target_open(CopyTarget *target, const char *path, const QimgImage *image,
                      uint64_t size_bytes, GError **error);
/* Cuts a regular file to @present_bytes (I2) and gives it the disk's size. */
bool copy_target_prepare(CopyTarget *target, uint64_t size_bytes, uint64_t present_bytes,
                         GError **error);
/* Writes @n_bytes, without the granules that are zeros where the target has zeros there.
 * Any thread. */
QimgErrno copy_target_write(CopyTarget *target, uint64_t guest_offset,
                            const uint8_t *buffer, size_t n_bytes) QIMG_MUST_CHECK;
/* Makes the range zeros. Any thread. */
QimgErrno copy_target_write_hole(CopyTarget *target, uint64_t guest_offset,
                                 uint64_t n_bytes) QIMG_MUST_CHECK;
/* Appends @n_bytes (zeros where @buffer is NULL) to the stream. -EINTR once *@stop is
 * set. */
QimgErrno copy_target_append(CopyTarget *target, const uint8_t *buffer, uint64_t n_bytes,
                             const _Atomic bool *stop) QIMG_MUST_CHECK;
/* Makes the names in the directory of @path durable. */
QimgErrno copy_sync_directory(const char *path) QIMG_MUST_CHECK;
void copy_target_close(CopyTarget *target);

/* ---- image/copy-journal.c -------------------------------------------------------------
 */

/* How far a copy has come. */
typedef struct {
    uint64_t done_bytes; /* from the disk's start */
    uint64_t data_bytes; /* of these, in granules that are not zeros */
    GArray *unreadable;  /* QimgUnreadable: of these; NULL: too many to be listed */
} CopyState;

void copy_state_clear(CopyState *state);

typedef struct CopyJournal CopyJournal;

/* A journal beside @target_path of a copy of what @source_name names in @image. Nothing
 * is read or written. */
CopyJournal *copy_journal_new(const char *target_path, const QimgImage *image,
                              const char *source_name);
/* Whether there is a journal, or anything else, at its place; its status is copied to
 * *@status_out. */
bool copy_journal_exists(const CopyJournal *journal, struct stat *status_out);
/* Reads the journal of an earlier run. Errors: INVALID when it is no journal, REFUSED
 * when it is one of another source, or the source has changed. */
bool copy_journal_load(CopyJournal *journal, CopyState *state_out, GError **error);
/* Writes @state, all of which must be durable. A failure leaves the earlier one. */
QimgErrno copy_journal_store(CopyJournal *journal, const CopyState *state);
/* Removes it. */
void copy_journal_remove(CopyJournal *journal);

/* Begins to write states in the background, each after a sync of @target, which must
 * outlive the end. */
bool copy_journal_begin(CopyJournal *journal, QimgStorage *target, GError **error);
/* Whether so much has been done since the last state, or so much time has passed, that
 * the next should be posted; and no sync runs. */
bool copy_journal_is_due(CopyJournal *journal, uint64_t done_bytes);
/* Hands over @state (content taken). */
void copy_journal_post(CopyJournal *journal, CopyState *state);
/* The error of a sync that failed, else 0. */
QimgErrno copy_journal_get_error(CopyJournal *journal);
/* Ends what copy_journal_begin began. */
void copy_journal_end(CopyJournal *journal);
/* Frees; accepts NULL. */
void copy_journal_free(CopyJournal *journal);

/* ---- image/copy-engine.c --------------------------------------------------------------
 */

/* What became of a piece. */
typedef struct {
    CopyPiece piece;
    uint64_t data_bytes; /* in granules that are not zeros */
    GArray *bad;         /* QimgUnreadable; NULL: none */
    QimgErrno read_error;
    QimgErrno write_error;
} CopyResult;

typedef struct {
    QimgImage *image;
    CopyTarget *target;
    uint64_t size_bytes;
    uint64_t begin_offset;  /* the first that is read */
    uint64_t present_bytes; /* up to here nothing is written */
    unsigned n_threads;
    CopyDigest *digests[QIMG_N_DIGESTS]; /* NULL: not wanted; of all from begin_offset */
    const _Atomic bool *stop;            /* atomic, relaxed: set by anyone at any time */
    /* In the calling thread, for each piece in the order of the disk; false ends the
     * copy. */
    bool (*consume)(void *user, const CopyResult *result, GError **error);
    /* In the calling thread: up to where the copy is complete. */
    void (*on_progress)(void *user, uint64_t done_bytes);
    void *user;
} CopyJob;

/* Copies all pieces. False when consume said so or threads or memory cannot be had, with
 * @error; and once *@stop is set, without. */
bool copy_engine_run(const CopyJob *job, GError **error);
