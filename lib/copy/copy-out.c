/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copies of disks: the conditions before a copy begins, the files that it leaves, and the
 * report. copy/copy-engine.c processes the pieces.
 *
 * A copy to a file or device is a transaction:
 *
 *   EMPTY ──▶ BOUND ──▶ FILLING ──▶ VERIFIED ──▶ NAMED
 *     ▲                    │             │
 *     └──── --resume ──────┴─────────────┘
 *
 * EMPTY     Nothing is created or changed. All possible checks run here: digests, the
 *           target and the files beside it, room, locks, and that the first piece can be
 *           read. An earlier run's journal is only read.
 *
 * BOUND     The journal names the file by its inode (a device by its size), on stable
 *           storage; both are held open, the target locked. Names are used up to here,
 *           and then only in VERIFIED. A file created by this run is empty. The first n
 *           bytes of a file filled by an earlier run are trusted only if neither it nor
 *           the source was touched since; else, or for digests, they are read back and
 *           compared before anything changes. A device is never trusted unread.
 *
 * FILLING   The first n bytes are the disk's and durable, for the n of the journal's last
 *           line; anything may follow. Digests are of written or read-back bytes.
 *
 * VERIFIED  Everything is written and durable; the source is as it was at the start; with
 *           verify, the target was read back from the medium; the journal says so.
 *
 * NAMED     The file has its name, durably, and the journal is gone. Only now are success
 *           and digests reported.
 *
 * A failing run leaves a file whose journal has a state, or removes everything that it
 * created (I4). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/errors.h"
#include "base/struct-size.h"
#include "copy/copy-binding.h"
#include "copy/copy-compare.h"
#include "copy/copy-digest.h"
#include "copy/copy-engine.h"
#include "copy/copy-journal.h"
#include "copy/copy-plan.h"
#include "copy/copy-prepare.h"
#include "copy/copy-private.h"
#include "copy/copy-rescue.h"
#include "copy/copy-source.h"
#include "copy/copy-target.h"

_Static_assert(ATOMIC_BOOL_LOCK_FREE == 2, "qimg_copy_stop is for signal handlers");

static void
tell_unreadable(const QimgUnreadable *range, void *user)
{
    QimgCopy *copy = user;

    if (copy->options.on_unreadable)
        copy->options.on_unreadable(range, copy->options.user);
}

QimgCopy *
qimg_copy_new(QimgImage *image, const QimgCopyOptions *options)
{
    QimgCopyOptions own;
    QimgCopy *copy;

    if (!qimg_struct_take(&own, sizeof own, options))
        return NULL;
    copy = g_new0(QimgCopy, 1);
    copy->image = image;
    copy->options = own;
    options = &copy->options;
    copy->report.struct_bytes = sizeof copy->report;
    copy->options.target_path = g_strdup(options->target_path);
    copy->options.source_name =
        g_strdup(options->source_name ? options->source_name : "disk");
    copy->options.n_threads =
        MIN(options->n_threads ? options->n_threads : qimg_default_threads(),
            COPY_MAX_THREADS);
    copy->binding = (CopyBinding){
        .place.dir_fd = -1,
        .target = {.fd = -1,
                   .stream_fd = options->stream_fd,
                   .keeps_zeros = options->keep_zeros},
        .old_fd = -1,
    };
    copy->wish = (CopyWish){
        .size_bytes = qimg_image_get_size_bytes(image),
        .overwrites = options->overwrite,
        .resumes = options->resume,
        .keeps_zeros = options->keep_zeros,
    };
    copy->report.size_bytes = qimg_image_get_size_bytes(image);
    atomic_init(&copy->stop, false);
    range_log_init(&copy->log, tell_unreadable, copy);
    return copy;
}

void
qimg_copy_free(QimgCopy *copy)
{
    if (!copy)
        return;
    atomic_store_explicit(&copy->stop, true, memory_order_relaxed);
    file_digests_free(copy->files);
    if (copy->binding.is_stream && copy->binding.target.stream_fd >= 0 &&
        copy->phase > COPY_EMPTY)
        close(copy->binding.target.stream_fd);
    copy_binding_clear(&copy->binding);
    range_log_clear(&copy->log);
    for (unsigned i = 0; i < COPY_N_DIGESTS; i++) {
        copy_digest_free(copy->digests[i]);
        g_free(copy->results[i]);
    }
    g_free((char *)copy->options.target_path);
    g_free((char *)copy->options.source_name);
    g_free(copy);
}

void
qimg_copy_stop(QimgCopy *copy)
{
    atomic_store_explicit(&copy->stop, true, memory_order_relaxed);
}

const QimgCopyReport *
qimg_copy_get_report(const QimgCopy *copy)
{
    return &copy->report;
}

const QimgUnreadable *
qimg_copy_get_unreadable(const QimgCopy *copy, unsigned place)
{
    return place < copy->log.listed->len
               ? &g_array_index(copy->log.listed, QimgUnreadable, place)
               : NULL;
}

const char *
qimg_copy_get_digest(const QimgCopy *copy, QimgDigest digest)
{
    return (unsigned)digest < COPY_N_DIGESTS ? copy->results[digest] : NULL;
}

unsigned
qimg_copy_get_n_files(const QimgCopy *copy)
{
    return copy->files ? file_digests_get_n(copy->files) : 0;
}

const char *
qimg_copy_get_file_path(const QimgCopy *copy, unsigned file)
{
    return file_digests_get(copy->files, file)->path;
}

const char *
qimg_copy_get_file_digest(const QimgCopy *copy, unsigned file, QimgDigest digest)
{
    const FileDigest *found = file_digests_get(copy->files, file);

    return (unsigned)digest < COPY_N_DIGESTS ? found->digests[digest] : NULL;
}

const char *
qimg_copy_get_file_error(const QimgCopy *copy, unsigned file)
{
    return file_digests_get(copy->files, file)->error;
}

/* ---- BOUND ---- */

/* Waits until the FIFO has a reader. */
static bool
open_stream(QimgCopy *copy, GError **error)
{
    CopyTarget *target = &copy->binding.target;

    do
        target->stream_fd =
            open(copy->options.target_path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    while (target->stream_fd < 0 && errno == EINTR &&
           !atomic_load_explicit(&copy->stop, memory_order_relaxed));
    if (target->stream_fd >= 0)
        return true;
    if (errno != EINTR)
        qimg_set_error_errno(error, errno, "check its permissions", "cannot be opened");
    return false;
}

static bool
bind_target(QimgCopy *copy, GError **error)
{
    CopyBinding *binding = &copy->binding;

    copy->phase = COPY_BOUND;
    if (!copy->options.target_path)
        return true;
    copy->report.is_target_at_fault = true;
    if (!(binding->is_stream
              ? open_stream(copy, error)
              : copy_binding_make(binding, copy->image, &copy->wish, error)))
        return false;
    copy->report.is_target_at_fault = false;
    return true;
}

/* Takes over the report of an earlier copy. */
static void
take_over(QimgCopy *copy)
{
    const CopyState *start = &copy->binding.start;

    copy->report.resumed_bytes = copy->report.done_bytes = start->done_bytes;
    copy->report.data_bytes = start->data_bytes;
    for (guint i = 0; start->unreadable && i < start->unreadable->len; i++)
        range_log_add(&copy->log, &g_array_index(start->unreadable, QimgUnreadable, i));
}

/* CopyJob.on_progress. */
static void
on_progress(void *user, uint64_t done_bytes)
{
    QimgCopy *copy = user;

    if (copy->options.on_progress &&
        !atomic_load_explicit(&copy->stop, memory_order_relaxed) &&
        !copy->options.on_progress(done_bytes, copy->report.size_bytes,
                                   copy->options.user))
        qimg_copy_stop(copy);
}

/* CopyJob.consume for comparing. */
static bool
consume_compared(void *user, const CopyResult *result, GError **error)
{
    QimgCopy *copy = user;

    if (!copy_check_read(copy, result->piece.guest_offset, result->read_error,
                         result->bad, error))
        return false;
    if (!result->compare_error && result->different_offset == COPY_NO_DIFFERENCE)
        return true;
    copy->report.is_target_at_fault = true;
    if (result->compare_error)
        qimg_set_error_errno(error, -result->compare_error, NULL,
                             "cannot read offset %" G_GUINT64_FORMAT " back",
                             (guint64)result->piece.guest_offset);
    else if (copy->phase == COPY_BOUND)
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "the copy cannot go on: at offset %" G_GUINT64_FORMAT
                       " it differs from the disk (start again with --force)",
                       (guint64)result->different_offset);
    else
        qimg_set_error(error, QIMG_ERROR_FAILED,
                       "the data read back at offset %" G_GUINT64_FORMAT
                       " differ from the disk (the medium may be failing)",
                       (guint64)result->different_offset);
    copy->is_void = copy->phase != COPY_BOUND && !result->compare_error;
    return false;
}

/* Compares the first @n_bytes of the target with the disk. */
static bool
compare_target(QimgCopy *copy, uint64_t n_bytes, bool is_hashed, bool from_medium,
               const GArray *listed, GError **error)
{
    CopyReader reader;
    CopyJob job = {
        .image = copy->image,
        .target = &copy->binding.target,
        .size_bytes = n_bytes,
        .reader = &reader,
        .listed = listed,
        .n_threads = copy->options.n_threads,
        .stop = &copy->stop,
        .consume = consume_compared,
        .on_progress = is_hashed ? on_progress : NULL,
        .user = copy,
    };
    bool is_same;

    if (is_hashed)
        memcpy(job.digests, copy->digests, sizeof job.digests);
    copy_reader_open(&reader, copy->binding.target.storage, from_medium);
    is_same = copy_engine_run(&job, error);
    copy_reader_close(&reader);
    return is_same;
}

/* Reads back the part written by an earlier run, if it is untrusted or needed for
 * digests. Nothing has changed yet. */
static bool
check_earlier(QimgCopy *copy, GError **error)
{
    const CopyBinding *binding = &copy->binding;

    if (!binding->is_resumed || binding->start.done_bytes == 0 ||
        (binding->is_trusted && !copy->options.digests))
        return true;
    return compare_target(copy, binding->start.done_bytes, copy->options.digests != 0,
                          false, binding->start.unreadable, error);
}

/* ---- FILLING ---- */

static CopyState
present_state(const QimgCopy *copy)
{
    return (CopyState){copy->report.done_bytes, copy->report.data_bytes,
                       range_log_snapshot(&copy->log), NULL};
}

static bool
post_state(QimgCopy *copy, GError **error)
{
    CopyBinding *binding = &copy->binding;
    QimgErrno err = copy_journal_get_error(binding->journal);
    CopyState state;

    if (err) {
        copy->report.is_target_at_fault = true;
        qimg_set_error_errno(error, -err, NULL, "the written data cannot be synced");
        return false;
    }
    if (!binding->has_journal ||
        !copy_journal_is_due(binding->journal, copy->report.done_bytes))
        return true;
    state = present_state(copy);
    if (state.unreadable)
        copy_journal_post(binding->journal, &state);
    return true;
}

/* CopyJob.consume for copying. */
static bool
consume(void *user, const CopyResult *result, GError **error)
{
    QimgCopy *copy = user;
    const CopyPiece *piece = &result->piece;

    if (!copy_check_read(copy, piece->guest_offset, result->read_error, result->bad,
                         error))
        return false;
    if (result->write_error) {
        copy->report.is_target_at_fault = true;
        qimg_set_error_errno(error, -result->write_error,
                             result->write_error == -ENOSPC ? "make room" : NULL,
                             "cannot write at offset %" G_GUINT64_FORMAT,
                             (guint64)piece->guest_offset);
        return false;
    }
    for (guint i = 0; result->bad && i < result->bad->len; i++)
        range_log_add(&copy->log, &g_array_index(result->bad, QimgUnreadable, i));
    copy->report.data_bytes += result->data_bytes;
    copy->report.done_bytes = piece->guest_offset + piece->length_bytes;
    return !copy->binding.target.storage || post_state(copy, error);
}

static bool
fill_target(QimgCopy *copy, GError **error)
{
    CopyBinding *binding = &copy->binding;
    CopyJob job = {
        .image = copy->image,
        .target = &binding->target,
        .size_bytes = copy->report.size_bytes,
        .begin_offset = binding->start.done_bytes,
        .n_threads = copy->options.n_threads,
        .stop = &copy->stop,
        .consume = consume,
        .on_progress = on_progress,
        .user = copy,
    };

    copy->phase = COPY_FILLING;
    if (binding->target.storage &&
        ((!binding->is_named &&
          !copy_target_prepare(&binding->target, copy->report.size_bytes,
                               binding->start.done_bytes, error)) ||
         !copy_journal_begin(binding->journal, binding->target.storage, error))) {
        copy->report.is_target_at_fault = true;
        return false;
    }
    memcpy(job.digests, copy->digests, sizeof job.digests);
    return copy_engine_run(&job, error);
}

static bool
finish_digests(QimgCopy *copy, GError **error)
{
    if (copy->files)
        file_digests_join(copy->files);
    if (atomic_load_explicit(&copy->stop, memory_order_relaxed))
        return false;
    for (unsigned i = 0; i < qimg_copy_get_n_files(copy) && !copy->options.rescue; i++) {
        const FileDigest *file = file_digests_get(copy->files, i);

        if (file->error) {
            qimg_set_error(error, QIMG_ERROR_FAILED,
                           "the file \"%s\" cannot be read for its digest: %s (leave out "
                           "the digests of files with --no-hash-files)",
                           file->path, file->error);
            return false;
        }
    }
    return true;
}

/* ---- VERIFIED and NAMED ---- */

/* Stores the progress, and that the target, which is durable, will not be written to any
 * more. */
static QimgErrno
store_last_state(QimgCopy *copy)
{
    CopyState state = present_state(copy);
    struct stat status;
    QimgErrno err = -E2BIG;

    qimg_storage_get_status(copy->binding.target.storage, &status);
    state.stamp = copy_stamp_of(&status);
    if (state.unreadable)
        err = copy_journal_store(copy->binding.journal, &state);
    copy_state_clear(&state);
    return err;
}

/* Whether each file of the source is as it was at the start. */
static bool
check_source(QimgCopy *copy, GError **error)
{
    const char *path = NULL;
    CopyChange change = copy_find_change(copy->image, &path);

    if (change == COPY_UNCHANGED)
        return true;
    /* If its content cannot have changed, reading back shows whether the copy is good. */
    copy->is_void = change == COPY_CHANGED;
    copy->report.is_target_at_fault = false;
    qimg_set_error(error, QIMG_ERROR_FAILED,
                   "\"%s\" was changed while it was copied (copy again when nothing "
                   "writes to it)",
                   path);
    return false;
}

static bool
verify(QimgCopy *copy, GError **error)
{
    CopyBinding *binding = &copy->binding;
    g_autoptr(GArray) listed = NULL;
    QimgErrno err;

    if (!binding->target.storage)
        return check_source(copy, error);
    copy_journal_end(binding->journal);
    copy->report.is_target_at_fault = true;
    err = qimg_storage_sync(binding->target.storage);
    if (err) {
        qimg_set_error_errno(error, -err, NULL, "the written data cannot be synced");
        return false;
    }
    copy->report.is_target_at_fault = false;
    if (copy->options.verify) {
        listed = range_log_snapshot(&copy->log);
        if (!compare_target(copy, copy->report.size_bytes, false, true, listed, error))
            return false;
    }
    if (!check_source(copy, error))
        return false;
    copy->report.is_target_at_fault = true;
    if (!copy_binding_check_name(binding, error))
        return false;
    /* After the rename only the journal tells what the file is. */
    err = binding->is_part && !binding->is_named ? store_last_state(copy) : 0;
    if (err && err != -E2BIG && err != -EFBIG) {
        qimg_set_error_errno(error, -err, err == -ENOSPC ? "make room" : NULL,
                             "the journal cannot be written");
        return false;
    }
    copy->phase = COPY_VERIFIED;
    return true;
}

static bool
name_target(QimgCopy *copy, GError **error)
{
    QimgErrno err = copy->binding.target.storage ? copy_binding_name(&copy->binding) : 0;

    if (err) {
        copy->report.is_target_at_fault = true;
        qimg_set_error_errno(error, -err, NULL, "its name cannot be made durable");
        return false;
    }
    copy->report.is_target_at_fault = false;
    copy->phase = COPY_NAMED;
    for (unsigned i = 0; i < COPY_N_DIGESTS; i++)
        if (copy->digests[i])
            copy->results[i] = copy_digest_finish(g_steal_pointer(&copy->digests[i]));
    return true;
}

/* ---- failures ---- */

/* Keeps the bytes copied so far, if a journal can record them. */
static bool
keep_state(QimgCopy *copy)
{
    CopyBinding *binding = &copy->binding;
    uint64_t done_bytes = copy->report.done_bytes;

    if (!binding->has_journal || copy->is_void || done_bytes == 0)
        return false;
    /* The bytes behind are useless (I2), and the journal may need their space. */
    if (!binding->is_named &&
        (!copy_target_prepare(&binding->target, copy->report.size_bytes, done_bytes,
                              NULL) ||
         qimg_storage_sync(binding->target.storage) != 0 || store_last_state(copy) != 0))
        copy->report.done_bytes = binding->start.done_bytes; /* at least this much */
    return copy->report.done_bytes > 0;
}

/* Leaves a resumable copy, or nothing that this run created. */
static void
leave_target(QimgCopy *copy)
{
    CopyBinding *binding = &copy->binding;

    if (copy->phase == COPY_EMPTY || !binding->target.storage)
        return;
    copy_journal_end(binding->journal);
    if (copy->phase == COPY_BOUND)
        copy->report.is_resumable = binding->is_resumed &&
                                    binding->start.done_bytes > 0 &&
                                    !copy->report.is_target_at_fault;
    else
        copy->report.is_resumable = keep_state(copy);
    if (!copy->report.is_resumable && !binding->is_resumed)
        copy_binding_undo(binding);
}

gboolean
qimg_copy_run(QimgCopy *copy, GError **error)
{
    GError *own_error = NULL;
    bool is_good = qimg_copy_prepare(copy, &own_error) && bind_target(copy, &own_error);

    if (is_good) {
        take_over(copy);
        if (copy->options.digests && copy->options.hash_files)
            copy->files = file_digests_start(copy->image, copy->options.digests,
                                             copy->options.n_threads, &copy->stop);
        is_good = check_earlier(copy, &own_error) && fill_target(copy, &own_error) &&
                  finish_digests(copy, &own_error) && verify(copy, &own_error) &&
                  name_target(copy, &own_error);
    }
    range_log_finish(&copy->log);
    copy->report.n_unreadable = copy->log.n_ranges;
    copy->report.unreadable_bytes = copy->log.n_bytes;
    copy->report.n_listed = copy->log.listed->len;
    if (is_good)
        return TRUE;
    /* A changed source is the reason for a failed read or a mismatch. */
    if (own_error && copy->phase >= COPY_BOUND && !copy->is_void) {
        GError *changed = NULL;
        bool is_target_at_fault = copy->report.is_target_at_fault;

        if (!is_target_at_fault && !check_source(copy, &changed)) {
            g_clear_error(&own_error);
            own_error = changed;
        }
    }
    leave_target(copy);
    if (!own_error)
        qimg_set_error(&own_error, QIMG_ERROR_CANCELED, "the copy was stopped");
    g_propagate_error(error, own_error);
    return FALSE;
}
