/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private parts of copying a disk out (copy/copy-out.c, where its states are), from the
 * bottom up: the plan, zeros, rescue, digests, the source, names, the target, reading it
 * back, the journal, the engine, and what is found at the target's name.
 *
 * I1  What a run has put below the offset that its journal says is what the disk holds
 *     there (zeros for ranges that the journal lists), and is on stable storage. Whether
 *     the target still has it is not known to a later run: see COPY_BOUND.
 * I2  Behind that offset a regular file is cut off before a copy goes on, so that all it
 *     does not write there is a hole.
 * I3  Nothing is written to a file of the chain.
 * I4  What a run has not made is not removed, and a name is removed or replaced only
 *     while it is that of the file that the run has open. */
#pragma once

#include <jansson.h>

#include "image/chain/handle.h"
#include "image/map/runs.h"
#include "image/read/compressed.h"
#include "image/read/read.h"

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
/* The digests of QimgDigest. */
#define COPY_N_DIGESTS (QIMG_DIGEST_SHA256 + 1)

/* ---- copy/copy-plan.c ----------------------------------------------------------------
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

/* ---- copy/copy-zeros.c ---------------------------------------------------------------
 */

/* Zeros that are written or digested at once, of base/zeros.h. */
#define COPY_ZEROS_BYTES (64 * QIMG_KIB)

/* Finds the next run of granules with data at or behind @*start_inout, an offset in
 * @buffer at the start of a granule: false when all is zeros up to @n_bytes, else the run
 * is [*@start_inout, *@end_out). The last granule may be short. Pure. */
bool copy_find_data(const uint8_t *buffer, size_t n_bytes, size_t *start_inout,
                    size_t *end_out);

/* ---- copy/copy-rescue.c --------------------------------------------------------------
 */

/* A range for a log, or the caller. */
static inline QimgUnreadable
copy_unreadable(uint64_t guest_offset, uint64_t length_bytes, const char *reason)
{
    return (QimgUnreadable){sizeof(QimgUnreadable), guest_offset, length_bytes, reason};
}

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

/* ---- copy/copy-digest.c --------------------------------------------------------------
 */

typedef struct CopyDigest CopyDigest;

/* Begins a digest; NULL with @error where the machine's policy forbids it. */
CopyDigest *copy_digest_new(QimgDigest kind, GError **error);
/* Adds bytes, or that many zeros where @bytes is NULL. */
void copy_digest_add(CopyDigest *digest, const uint8_t *bytes, uint64_t n_bytes);
/* Ends @digest and frees it; its text in hexadecimal (free with g_free). */
char *copy_digest_finish(CopyDigest *digest);
void copy_digest_free(CopyDigest *digest);

/* Those of one file. */
typedef struct {
    const char *path;              /* borrowed from the chain */
    char *digests[COPY_N_DIGESTS]; /* in hexadecimal; NULL: not wanted, or failed */
    char *error;                   /* why they could not be computed; NULL */
} FileDigest;

/* Digests of the chain's files as they are, computed by threads of their own. */
typedef struct FileDigests FileDigests;

/* Begins the digests @kinds (bits) of the files of layer @first_layer and those below, by
 * at most @n_threads threads, which end early when *@stop is set. */
FileDigests *file_digests_start(QimgChain *chain, unsigned first_layer, unsigned kinds,
                                unsigned n_threads, const _Atomic bool *stop);
/* Waits for the threads. */
void file_digests_join(FileDigests *digests);
/* After the join: how many files there are, and one of them, owned by @digests. */
unsigned file_digests_get_n(const FileDigests *digests);
const FileDigest *file_digests_get(const FileDigests *digests, unsigned file);
/* Joins and frees; accepts NULL. */
void file_digests_free(FileDigests *digests);

/* ---- copy/copy-source.c --------------------------------------------------------------
 */

/* Device, inode, size and times as text: two equal ones are of one file that nobody has
 * changed in between. Free with g_free. */
char *copy_stamp_of(const struct stat *status);

typedef enum {
    COPY_UNCHANGED,
    COPY_TOUCHED, /* its status alone: owner, mode, links, or its content and mtime */
    COPY_CHANGED,
} CopyChange;

/* Whether a file of @image's chain is not as it was when it was opened; *@path_out
 * (borrowed) is its path then. */
CopyChange copy_find_change(const QimgImage *image, const char **path_out);

/* What is copied: its name and size, the files of @image's chain with size and stamp.
 * Free with json_decref. */
json_t *copy_source_describe(const QimgImage *image, const char *source_name);

/* What of the source is not as it was when a copy began, of two such descriptions; free
 * with g_free. NULL: nothing. A file of which the status alone has changed sets
 * *@is_touched_out. */
char *copy_source_find_difference(const json_t *then, const json_t *now,
                                  bool *is_touched_out);

/* ---- copy/copy-place.c ---------------------------------------------------------------
 */

typedef struct {
    int dir_fd;              /* O_PATH; -1: not open */
    char *name;              /* all names are of this directory; this is the target's */
    char *part_name;         /* what is to take the place of the target */
    char *journal_name;      /* of a copy to name */
    char *part_journal_name; /* of a copy to part_name */
} CopyPlace;

/* Opens the directory of @path; with @follows that of the file it leads to. */
bool copy_place_open(CopyPlace *place, const char *path, bool follows, GError **error);
void copy_place_close(CopyPlace *place);
/* The status of what has @name, a link's own; false where nothing has. */
bool copy_place_get_status(const CopyPlace *place, const char *name,
                           struct stat *status_out);
/* Opens a regular file; -1 with errno, EINVAL or ELOOP where it is something else. */
int copy_place_open_file(const CopyPlace *place, const char *name, int access_mode);
/* Makes a file where nothing has @name; -1 with errno. */
int copy_place_make_file(const CopyPlace *place, const char *name, mode_t mode);
/* Whether @name is that of the file @fd. */
bool copy_place_has(const CopyPlace *place, const char *name, int fd);
/* Removes @name where it is that of the file @fd. */
void copy_place_remove(const CopyPlace *place, const char *name, int fd);
/* Gives the part the target's name. */
QimgErrno copy_place_rename_part(const CopyPlace *place) QIMG_MUST_CHECK;
/* Makes the names durable; @fd is any file on the directory's file system. */
QimgErrno copy_place_sync(const CopyPlace *place, int fd) QIMG_MUST_CHECK;

/* ---- copy/copy-target.c --------------------------------------------------------------
 */

typedef struct {
    QimgStorage *storage; /* NULL: a stream */
    int fd;               /* of the storage, which owns it */
    int stream_fd;
    bool is_device;
    bool keeps_zeros; /* zeros are written like data */
} CopyTarget;

/* Whether the file of @status is one of @image's chain, those above its first layer, too.
 */
bool copy_is_chain_file(const QimgImage *image, const struct stat *status);

/* Takes @fd (also on failure) as the target, and locks it; nothing that is there changes.
 * @path is for messages. */
bool copy_target_take(CopyTarget *target, int fd, const char *path,
                      const QimgImage *image, GError **error);
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
/* Appends @n_bytes (zeros where @buffer is NULL) to the stream. -ECANCELED once *@stop is
 * set. */
QimgErrno copy_target_append(CopyTarget *target, const uint8_t *buffer, uint64_t n_bytes,
                             const _Atomic bool *stop) QIMG_MUST_CHECK;
void copy_target_close(CopyTarget *target);

/* ---- copy/copy-compare.c -------------------------------------------------------------
 */

#define COPY_NO_DIFFERENCE UINT64_MAX

typedef struct {
    QimgStorage *target; /* borrowed, as fd is */
    int fd;
    int direct_fd; /* past the page cache; -1: not possible, or not wanted */
} CopyReader;

/* Prepares to read @target, a file of the host. With @from_medium its pages are dropped
 * from the page cache, where it must have been synced, and it is read past the cache. */
void copy_reader_open(CopyReader *reader, QimgStorage *target, bool from_medium);
void copy_reader_close(CopyReader *reader);
/* Compares with @wanted; @buffer has room for @n_bytes up to the next granule and is
 * aligned to one. *@different_out is written only where they differ. Any thread. */
QimgErrno copy_reader_compare(const CopyReader *reader, uint64_t offset,
                              const uint8_t *wanted, size_t n_bytes, uint8_t *buffer,
                              uint64_t *different_out) QIMG_MUST_CHECK;
/* As copy_reader_compare, with zeros; *@different_out is COPY_NO_DIFFERENCE before. */
QimgErrno copy_reader_check_zeros(const CopyReader *reader, uint64_t offset,
                                  uint64_t n_bytes, uint8_t *buffer, size_t buffer_bytes,
                                  const _Atomic bool *stop, uint64_t *different_out)
    QIMG_MUST_CHECK;

/* ---- copy/copy-journal.c -------------------------------------------------------------
 */

/* How far a copy has come. */
typedef struct {
    uint64_t done_bytes; /* from the disk's start */
    uint64_t data_bytes; /* of these, in granules that are not zeros */
    GArray *unreadable;  /* QimgUnreadable: of these; NULL: too many to be listed */
    /* The target's stamp when this was stored, and nothing written later; NULL: more was
     * going to be written. */
    char *stamp;
} CopyState;

void copy_state_clear(CopyState *state);

/* What is found at a journal's name. */
typedef enum {
    COPY_JOURNAL_NONE,
    COPY_JOURNAL_BLANK,   /* its run has ended before it said anything */
    COPY_JOURNAL_STATES,  /* the journal of a copy */
    COPY_JOURNAL_BROKEN,  /* was one, of this version or an earlier one */
    COPY_JOURNAL_FOREIGN, /* something else */
} CopyJournalKind;

/* Which file a copy goes to. */
typedef struct {
    bool is_device;
    uint64_t inode; /* 0 for a device: whether it is the same shows its content alone */
    uint64_t size_bytes;
} CopyIdentity;

typedef struct CopyJournal CopyJournal;

/* A journal of a copy of what @source_name names in @image. Nothing is read or written.
 */
CopyJournal *copy_journal_new(const QimgImage *image, const char *source_name);
/* Opens and reads what has @name in @place, borrowed both. */
CopyJournalKind copy_journal_open(CopyJournal *journal, const CopyPlace *place,
                                  const char *name);
/* Of a journal of STATES: the last, whose content is the caller's, and of what file. */
void copy_journal_get(const CopyJournal *journal, CopyState *state_out,
                      CopyIdentity *identity_out);
/* Whether a copy of STATES can go on from the source as it is now. Errors: REFUSED when
 * it is one of another source, or the source has changed. *@is_untouched_out: not even
 * the status of a file has changed. */
bool copy_journal_check_source(const CopyJournal *journal, bool *is_untouched_out,
                               GError **error);
/* Begins a journal: makes it, or begins the one that was opened anew. Its content is
 * durable then, its name is not. */
QimgErrno copy_journal_make(CopyJournal *journal, const CopyIdentity *identity);
/* Appends @state, all of which must be durable. A failure leaves the earlier ones. */
QimgErrno copy_journal_store(CopyJournal *journal, const CopyState *state);
/* Removes its name where it is that of the file that was opened or made. */
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

/* ---- copy/copy-engine.c --------------------------------------------------------------
 */

/* What became of a piece. */
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
    const CopyReader *reader; /* not NULL: is compared with, and nothing is written */
    const GArray *listed;     /* QimgUnreadable: zeros where it is compared; NULL: none */
    unsigned n_threads;
    CopyDigest *digests[COPY_N_DIGESTS]; /* NULL: not wanted; of all from begin_offset */
    const _Atomic bool *stop;            /* atomic, relaxed: set by anyone at any time */
    /* In the calling thread, for each piece in the order of the disk; false ends the
     * copy. */
    bool (*consume)(void *user, const CopyResult *result, GError **error);
    /* In the calling thread: up to where the copy is complete. May be NULL. */
    void (*on_progress)(void *user, uint64_t done_bytes);
    void *user;
} CopyJob;

/* Copies all pieces. False when consume said so or threads or memory cannot be had, with
 * @error; and once *@stop is set, without. */
bool copy_engine_run(const CopyJob *job, GError **error);

/* ---- copy/copy-bind.c ----------------------------------------------------------------
 */

/* How the target is found, and to be dealt with. */
typedef struct {
    CopyPlace place;
    CopyTarget target;
    CopyJournal *journal;     /* NULL: a stream; of what is filled */
    CopyJournal *old_journal; /* of the file that is replaced; NULL: none */
    const char *path;         /* const, borrowed: as it was named */
    bool is_stream;           /* a FIFO that path names */
    bool is_part;             /* what is filled takes the target's place at the end */
    bool is_named;            /* it has its name: only the journals are left */
    bool made_file;           /* by this run */
    bool made_journal;        /* by this run, or begun anew */
    bool has_journal;         /* on the disk */
    int old_fd;               /* what is replaced, locked; -1: none */
    CopyState start;          /* what an earlier copy has done */
    bool is_resumed;          /* its journal goes on */
    bool is_trusted;          /* nobody has touched it and the source since */
} CopyBinding;

typedef struct {
    uint64_t size_bytes;
    bool overwrites;
    bool resumes;
    bool keeps_zeros;
} CopyWish;

/* Looks at what has the target's name and those beside it, and decides what becomes of
 * them. Opens and locks; nothing changes. */
bool copy_binding_find(CopyBinding *binding, const char *path, const QimgImage *image,
                       const char *source_name, const CopyWish *wish, GError **error);
/* ---- copy/copy-binding.c --------------------------------------------------------------
 */

/* Sets @error, of QIMG_ERROR_REFUSED, to a text; false. */
#define COPY_REFUSE(...) (qimg_set_error(error, QIMG_ERROR_REFUSED, __VA_ARGS__), false)

/* Sets @error to @what and what @errnum (positive) says; false. */
bool copy_refuse_errno(int errnum, const char *what, GError **error);

/* The name of what is filled, and of its journal, in the place. */
const char *copy_binding_fill_name(const CopyBinding *binding);
const char *copy_binding_fill_journal_name(const CopyBinding *binding);

/* Takes @fd (also on failure) as what is filled. Once it is locked nobody else renames or
 * removes it: what was looked at before is looked at again. */
bool copy_binding_take_fill(CopyBinding *binding, int fd, const QimgImage *image,
                            GError **error);

/* Makes the file and the journal where there are none, durably. After a failure
 * copy_binding_undo is to be called. */
bool copy_binding_make(CopyBinding *binding, const QimgImage *image, const CopyWish *wish,
                       GError **error);
/* Whether the name is still that of the file. */
bool copy_binding_check_name(const CopyBinding *binding, GError **error);
/* Lets a complete file, of which the journal knows that it is, have its name; removes the
 * journals. */
QimgErrno copy_binding_name(CopyBinding *binding) QIMG_MUST_CHECK;
/* Removes what this run has made. */
void copy_binding_undo(CopyBinding *binding);
/* Whether @path names a file that the copy writes or removes. */
bool copy_binding_uses(const CopyBinding *binding, const char *path);
void copy_binding_clear(CopyBinding *binding);

/* ---- copy/copy-out.c ------------------------------------------------------------------
 */

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
    _Atomic bool stop; /* atomic, relaxed: nothing else is told by it */
    CopyPhase phase;
    bool is_prepared;
    bool is_void; /* what was copied is of no use to anyone */
    CopyWish wish;
    CopyBinding binding;
    RangeLog log;
    FileDigests *files;
    CopyDigest *digests[COPY_N_DIGESTS];
    char *results[COPY_N_DIGESTS]; /* of these; NULL until the end */
};

/* ---- copy/copy-prepare.c --------------------------------------------------------------
 */

/* Checks what came of reading a piece at @guest_offset: @bad are its ranges that cannot
 * be read, or NULL. */
bool copy_check_read(const QimgCopy *copy, uint64_t guest_offset, QimgErrno read_error,
                     const GArray *bad, GError **error);
