/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private parts of copying a disk out (copy/copy-out.c has the states), from the bottom
 * up: the plan, zeros, rescue, digests, the source, names, the target, reading it back,
 * the journal, the engine, and the files found at the target's name.
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

#include <jansson.h>

#include "image/chain/handle.h"
#include "image/map/runs.h"
#include "image/read/compressed.h"
#include "image/read/read.h"

/* The unit of skipped zeros: a page, and the block of most file systems. */
#define COPY_GRANULE_BYTES   4096u
#define COPY_MIN_CHUNK_BYTES QIMG_MIB
/* A hole that must be written or digested is processed in pieces of this size; the copy
 * can stop after each. */
#define COPY_HOLE_PIECE_BYTES (64 * QIMG_MIB)
/* Limit of stored unreadable ranges: 1.5 MiB. */
#define COPY_MAX_LISTED  65536u
#define COPY_MAX_THREADS 256u
/* The digests of QimgDigest. */
#define COPY_N_DIGESTS (QIMG_DIGEST_SHA256 + 1)

/* ---- copy/copy-plan.c ---- */

typedef struct {
    uint64_t guest_offset;
    uint64_t length_bytes;
    bool is_hole; /* zeros that need no reading */
} CopyPiece;

/* Cuts a disk into consecutive pieces without gaps: holes, and chunks with data, whose
 * ends are multiples of the chunk's size. */
typedef struct {
    uint64_t size_bytes;
    uint64_t chunk_bytes;    /* a power of two */
    uint64_t max_hole_bytes; /* a multiple of the chunk */
    uint64_t next_offset;    /* start of the next piece */
    uint64_t data_offset; /* everything from next_offset to here is known to be a hole */
    /* As qimg_image_seek for data. */
    QimgErrno (*find_data)(void *user, uint64_t guest_offset, uint64_t *offset_out);
    void *user;
} CopyPlan;

/* The next piece; false at the disk's end. If find_data fails the piece counts as data:
 * its reader gets the error. */
bool copy_plan_next(CopyPlan *plan, CopyPiece *out);

/* ---- copy/copy-zeros.c ---- */

/* Zeros written or digested at once, from base/zeros.h. */
#define COPY_ZEROS_BYTES (64 * QIMG_KIB)

/* Finds the next run of granules with data at or behind @*start_inout, an offset in
 * @buffer at the start of a granule: false if everything up to @n_bytes is zeros, else
 * the run is [*@start_inout, *@end_out). The last granule may be short. Pure. */
bool copy_find_data(const uint8_t *buffer, size_t n_bytes, size_t *start_inout,
                    size_t *end_out);

/* ---- copy/copy-rescue.c ---- */

/* Makes a range for a log, or the caller. */
static inline QimgUnreadable
copy_unreadable(uint64_t guest_offset, uint64_t length_bytes, const char *reason)
{
    return (QimgUnreadable){sizeof(QimgUnreadable), guest_offset, length_bytes, reason};
}

/* Whether @err, from a read, means that the range itself is unreadable, rather than that
 * reading is impossible now. */
bool copy_is_unreadable(QimgErrno err);

/* Reads the readable parts of the range into @buffer, with zeros for the rest, which is
 * added to @bad (QimgUnreadable). The resolution is a sector of the host, or a cluster if
 * compressed. Slow. Errors: those for which copy_is_unreadable is false; -ECANCELED once
 * *@stop is set. */
QimgErrno copy_rescue(QimgImage *image, uint64_t guest_offset, size_t length_bytes,
                      uint8_t *buffer, const _Atomic bool *stop, GArray *bad)
    QIMG_MUST_CHECK;

/* The unreadable ranges of a disk, in order; adjacent ranges with the same reason are
 * merged. */
typedef struct {
    GArray *listed;      /* QimgUnreadable: the first COPY_MAX_LISTED complete ones */
    QimgUnreadable last; /* may still grow; length 0: none */
    uint64_t n_ranges;   /* including the last */
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
/* A copy of the listed ranges and the last one; free with g_array_unref. NULL if there
 * are more than can be listed. */
GArray *range_log_snapshot(const RangeLog *log);

/* ---- copy/copy-digest.c ---- */

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
    const char *path;              /* borrowed from the chain */
    char *digests[COPY_N_DIGESTS]; /* in hexadecimal; NULL: not requested, or failed */
    char *error;                   /* why they failed; else NULL */
} FileDigest;

/* Digests of the chain's files, computed by separate threads. */
typedef struct FileDigests FileDigests;

/* Begins the digests @kinds (bits) of the files of layer @first_layer and those below, by
 * at most @n_threads threads, which end early when *@stop is set. */
FileDigests *file_digests_start(QimgChain *chain, unsigned first_layer, unsigned kinds,
                                unsigned n_threads, const _Atomic bool *stop);
/* Waits for the threads. */
void file_digests_join(FileDigests *digests);
/* After the join: the number of files, and one of them, owned by @digests. */
unsigned file_digests_get_n(const FileDigests *digests);
const FileDigest *file_digests_get(const FileDigests *digests, unsigned file);
/* Joins and frees; accepts NULL. */
void file_digests_free(FileDigests *digests);

/* ---- copy/copy-source.c ---- */

/* Device, inode, size and times as text: equal texts mean the same, unchanged file. Free
 * with g_free. */
char *copy_stamp_of(const struct stat *status);

typedef enum {
    COPY_UNCHANGED,
    COPY_TOUCHED, /* only its status: owner, mode, links, or content and mtime */
    COPY_CHANGED,
} CopyChange;

/* Whether a file of @image's chain has changed since the open; *@path_out (borrowed) is
 * then its path. */
CopyChange copy_find_change(const QimgImage *image, const char **path_out);

/* Describes the source: its name and size, and the files of @image's chain with size and
 * stamp. Free with json_decref. */
json_t *copy_source_describe(const QimgImage *image, const char *source_name);

/* The difference between two such descriptions of the source, then and now; free with
 * g_free. NULL: none. A file of which only the status has changed sets
 * *@is_touched_out. */
char *copy_source_find_difference(const json_t *then, const json_t *now,
                                  bool *is_touched_out);

/* ---- copy/copy-place.c ---- */

typedef struct {
    int dir_fd;              /* O_PATH; -1: not open */
    char *name;              /* the target's; all names are in this directory */
    char *part_name;         /* the file that will replace the target */
    char *journal_name;      /* for a copy to name */
    char *part_journal_name; /* for a copy to part_name */
} CopyPlace;

/* Opens the directory of @path; with @follows, that of the file behind symbolic links. */
bool copy_place_open(CopyPlace *place, const char *path, bool follows, GError **error);
void copy_place_close(CopyPlace *place);
/* The status of @name, without following links; false if it does not exist. */
bool copy_place_get_status(const CopyPlace *place, const char *name,
                           struct stat *status_out);
/* Opens a regular file; -1 with errno, EINVAL or ELOOP if it is no regular file. */
int copy_place_open_file(const CopyPlace *place, const char *name, int access_mode);
/* Creates a file under an unused @name; -1 with errno. */
int copy_place_make_file(const CopyPlace *place, const char *name, mode_t mode);
/* Whether @name belongs to the file @fd. */
bool copy_place_has(const CopyPlace *place, const char *name, int fd);
/* Removes @name if it belongs to the file @fd. */
void copy_place_remove(const CopyPlace *place, const char *name, int fd);
/* Renames the part to the target's name. */
QimgErrno copy_place_rename_part(const CopyPlace *place) QIMG_MUST_CHECK;
/* Makes the names durable; @fd is any file on the directory's file system. */
QimgErrno copy_place_sync(const CopyPlace *place, int fd) QIMG_MUST_CHECK;

/* ---- copy/copy-target.c ---- */

typedef struct {
    QimgStorage *storage; /* NULL: a stream */
    int fd;               /* of the storage, which owns it */
    int stream_fd;
    bool is_device;
    bool keeps_zeros; /* writes zeros like data */
} CopyTarget;

/* Whether @status is of a file of @image's chain, including layers above its first. */
bool copy_is_chain_file(const QimgImage *image, const struct stat *status);

/* Takes @fd (also on failure) as the target, and locks it; changes nothing in it. @path
 * is for messages. */
bool copy_target_take(CopyTarget *target, int fd, const char *path,
                      const QimgImage *image, GError **error);
/* Cuts a regular file to @present_bytes (I2) and gives it the disk's size. */
bool copy_target_prepare(CopyTarget *target, uint64_t size_bytes, uint64_t present_bytes,
                         GError **error);
/* Writes @n_bytes, except granules of zeros where the target has zeros already. Any
 * thread. */
QimgErrno copy_target_write(CopyTarget *target, uint64_t guest_offset,
                            const uint8_t *buffer, size_t n_bytes) QIMG_MUST_CHECK;
/* Makes the range zeros. Any thread. */
QimgErrno copy_target_write_hole(CopyTarget *target, uint64_t guest_offset,
                                 uint64_t n_bytes) QIMG_MUST_CHECK;
/* Appends @n_bytes (zeros if @buffer is NULL) to the stream. -ECANCELED once *@stop is
 * set. */
QimgErrno copy_target_append(CopyTarget *target, const uint8_t *buffer, uint64_t n_bytes,
                             const _Atomic bool *stop) QIMG_MUST_CHECK;
void copy_target_close(CopyTarget *target);

/* ---- copy/copy-compare.c ---- */

#define COPY_NO_DIFFERENCE UINT64_MAX

typedef struct {
    QimgStorage *target; /* borrowed, as is fd */
    int fd;
    int direct_fd; /* bypasses the page cache; -1: impossible, or not requested */
} CopyReader;

/* Prepares to read @target, a file of the host. With @from_medium, drops its pages from
 * the page cache (it must have been synced) and reads with direct I/O. */
void copy_reader_open(CopyReader *reader, QimgStorage *target, bool from_medium);
void copy_reader_close(CopyReader *reader);
/* Compares with @wanted; @buffer has room for @n_bytes up to the next granule and is
 * aligned to one. *@different_out is written only on a difference. Any thread. */
QimgErrno copy_reader_compare(const CopyReader *reader, uint64_t offset,
                              const uint8_t *wanted, size_t n_bytes, uint8_t *buffer,
                              uint64_t *different_out) QIMG_MUST_CHECK;
/* As copy_reader_compare, with zeros; the caller initializes *@different_out to
 * COPY_NO_DIFFERENCE. */
QimgErrno copy_reader_check_zeros(const CopyReader *reader, uint64_t offset,
                                  uint64_t n_bytes, uint8_t *buffer, size_t buffer_bytes,
                                  const _Atomic bool *stop, uint64_t *different_out)
    QIMG_MUST_CHECK;

/* ---- copy/copy-journal.c ---- */

/* The progress of a copy. */
typedef struct {
    uint64_t done_bytes; /* from the disk's start */
    uint64_t data_bytes; /* of these, in granules that are not zeros */
    GArray *unreadable;  /* QimgUnreadable: of these; NULL: too many to list */
    /* The target's stamp when this was stored, if nothing was written later; NULL: more
     * was to be written. */
    char *stamp;
} CopyState;

void copy_state_clear(CopyState *state);

/* The kind of file at a journal's name. */
typedef enum {
    COPY_JOURNAL_NONE,
    COPY_JOURNAL_BLANK,   /* its run ended before it stored anything */
    COPY_JOURNAL_STATES,  /* the journal of a copy */
    COPY_JOURNAL_BROKEN,  /* once a journal, of this version or an earlier one */
    COPY_JOURNAL_FOREIGN, /* something else */
} CopyJournalKind;

/* The target file of a copy. */
typedef struct {
    bool is_device;
    uint64_t inode; /* 0 for a device, which only its content can identify */
    uint64_t size_bytes;
} CopyIdentity;

typedef struct CopyJournal CopyJournal;

/* A journal for a copy of @source_name in @image. Reads and writes nothing. */
CopyJournal *copy_journal_new(const QimgImage *image, const char *source_name);
/* Opens and reads the file @name in @place; borrows both. */
CopyJournalKind copy_journal_open(CopyJournal *journal, const CopyPlace *place,
                                  const char *name);
/* For a journal of STATES: its last state, whose content the caller owns, and its
 * file. */
void copy_journal_get(const CopyJournal *journal, CopyState *state_out,
                      CopyIdentity *identity_out);
/* Whether a copy of STATES can be resumed from the present source. Errors: REFUSED if it
 * is of another source, or the source has changed. *@is_untouched_out: not even the
 * status of a file has changed. */
bool copy_journal_check_source(const CopyJournal *journal, bool *is_untouched_out,
                               GError **error);
/* Begins a journal: creates it, or restarts the opened one. Its content is durable then,
 * its name is not. */
QimgErrno copy_journal_make(CopyJournal *journal, const CopyIdentity *identity);
/* Appends @state, all of which must be durable. A failure leaves the earlier ones. */
QimgErrno copy_journal_store(CopyJournal *journal, const CopyState *state);
/* Removes its name if it belongs to the opened or created file. */
void copy_journal_remove(CopyJournal *journal);

/* Begins to write states in the background, each after a sync of @target, which must
 * outlive copy_journal_end. */
bool copy_journal_begin(CopyJournal *journal, QimgStorage *target, GError **error);
/* Whether the next state should be posted, by progress or time since the last, and no
 * sync is running. */
bool copy_journal_is_due(CopyJournal *journal, uint64_t done_bytes);
/* Posts @state (takes its content). */
void copy_journal_post(CopyJournal *journal, CopyState *state);
/* The error of a failed sync, else 0. */
QimgErrno copy_journal_get_error(CopyJournal *journal);
/* Ends the thread of copy_journal_begin. */
void copy_journal_end(CopyJournal *journal);
/* Frees; accepts NULL. */
void copy_journal_free(CopyJournal *journal);

/* ---- copy/copy-engine.c ---- */

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

/* ---- copy/copy-bind.c ---- */

/* The found target, and the plan for it. */
typedef struct {
    CopyPlace place;
    CopyTarget target;
    CopyJournal *journal;     /* of the filled file; NULL: a stream */
    CopyJournal *old_journal; /* of the replaced file; NULL: none */
    const char *path;         /* const, borrowed: as given */
    bool is_stream;           /* path names a FIFO */
    bool is_part;             /* the filled file replaces the target at the end */
    bool is_named;            /* renamed: only the journals are left */
    bool made_file;           /* by this run */
    bool made_journal;        /* by this run, or restarted */
    bool has_journal;         /* on the disk */
    int old_fd;               /* the replaced file, locked; -1: none */
    CopyState start;          /* the state of an earlier copy */
    bool is_resumed;          /* continues its journal */
    bool is_trusted;          /* neither it nor the source was touched since */
} CopyBinding;

typedef struct {
    uint64_t size_bytes;
    bool overwrites;
    bool resumes;
    bool keeps_zeros;
} CopyWish;

/* Examines the target's name and those beside it, and decides how to treat the files.
 * Opens and locks; changes nothing. */
bool copy_binding_find(CopyBinding *binding, const char *path, const QimgImage *image,
                       const char *source_name, const CopyWish *wish, GError **error);
/* ---- copy/copy-binding.c ---- */

/* Sets @error to QIMG_ERROR_REFUSED with a text; false. */
#define COPY_REFUSE(...) (qimg_set_error(error, QIMG_ERROR_REFUSED, __VA_ARGS__), false)

/* Sets @error to @what and the text of @errnum (positive); false. */
bool copy_refuse_errno(int errnum, const char *what, GError **error);

/* The names of the filled file and of its journal, in the place. */
const char *copy_binding_fill_name(const CopyBinding *binding);
const char *copy_binding_fill_journal_name(const CopyBinding *binding);

/* Takes @fd (also on failure) as the filled file. Under its lock no other run renames or
 * removes it, so earlier checks are repeated. */
bool copy_binding_take_fill(CopyBinding *binding, int fd, const QimgImage *image,
                            GError **error);

/* Creates the file and the journal if missing, durably. After a failure the caller must
 * call copy_binding_undo. */
bool copy_binding_make(CopyBinding *binding, const QimgImage *image, const CopyWish *wish,
                       GError **error);
/* Whether the name still belongs to the file. */
bool copy_binding_check_name(const CopyBinding *binding, GError **error);
/* Gives a file that its journal records as complete its name; removes the journals. */
QimgErrno copy_binding_name(CopyBinding *binding) QIMG_MUST_CHECK;
/* Removes the files that this run created. */
void copy_binding_undo(CopyBinding *binding);
/* Whether @path names a file that the copy writes or removes. */
bool copy_binding_uses(const CopyBinding *binding, const char *path);
void copy_binding_clear(CopyBinding *binding);

/* ---- copy/copy-out.c ---- */

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

/* ---- copy/copy-prepare.c ---- */

/* Checks the result of reading a piece at @guest_offset: @bad are its unreadable ranges,
 * or NULL. */
bool copy_check_read(const QimgCopy *copy, uint64_t guest_offset, QimgErrno read_error,
                     const GArray *bad, GError **error);
