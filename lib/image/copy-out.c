/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copies of disks: what must hold before one begins, what stays when it ends, and what is
 * told of it. The pieces go through image/copy-engine.c.
 *
 * A copy to a file begins with a journal that says "nothing yet": from then on, however
 * this process ends, there is a file that is complete, or one with a journal. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/errors.h"
#include "image/copy-out.h"

struct QimgCopy {
    QimgImage *image;
    QimgCopyOptions options; /* its texts are owned */
    QimgCopyReport report;
    _Atomic bool stop; /* atomic, relaxed: nothing else is told by it */
    CopyTarget target;
    CopyJournal *journal; /* NULL: a stream */
    bool has_journal;     /* on the disk */
    CopyState start;      /* what an earlier copy has done */
    RangeLog log;
    FileDigests *files;
    CopyDigest *digests[QIMG_N_DIGESTS];
};

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
    QimgCopy *copy = g_new0(QimgCopy, 1);

    copy->image = image;
    copy->options = *options;
    copy->options.target_path = g_strdup(options->target_path);
    copy->options.source_name =
        g_strdup(options->source_name ? options->source_name : "disk");
    copy->options.n_threads =
        MIN(options->n_threads ? options->n_threads : qimg_default_threads(),
            COPY_MAX_THREADS);
    copy->target.stream_fd = options->stream_fd;
    copy->target.keeps_zeros = options->keep_zeros;
    copy->report.size_bytes = image_size_bytes(image);
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
    copy_journal_free(copy->journal);
    copy_target_close(&copy->target);
    copy_state_clear(&copy->start);
    range_log_clear(&copy->log);
    for (unsigned i = 0; i < QIMG_N_DIGESTS; i++) {
        copy_digest_free(copy->digests[i]);
        g_free((char *)copy->report.digests[i]);
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

gboolean
qimg_image_has_file(const QimgImage *image, const struct stat *status)
{
    return copy_is_chain_file(image, status);
}

/* ---- before ---------------------------------------------------------------------------
 */

static bool
check_image(const QimgImage *image, GError **error)
{
    if (image->chain->gate) {
        qimg_set_error(error, QIMG_ERROR_USAGE,
                       "only an image that nobody writes to can be copied (leave out rw "
                       "and cow)");
        return false;
    }
    for (unsigned i = image->first_layer; i < image->chain->n_layers; i++) {
        QimgErrno err = image->chain->layers[i]->data_error;

        if (err) {
            qimg_set_error_errno(error, -err, NULL, "its data cannot be read");
            return false;
        }
    }
    return true;
}

/* Learns what an earlier copy to the target has left, and whether this one may begin. */
static bool
check_earlier_copy(QimgCopy *copy, GError **error)
{
    const QimgCopyOptions *options = &copy->options;
    struct stat status, journal_status;
    bool is_there = stat(options->target_path, &status) == 0;
    /* An empty one is what an earlier copy leaves that ended before all else. */
    bool is_file =
        is_there && S_ISREG(status.st_mode) && !(options->resume && status.st_size == 0);
    bool has_journal = copy_journal_exists(copy->journal, &journal_status);

    if (has_journal && copy_is_chain_file(copy->image, &journal_status)) { /* I3 */
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "the journal of a copy to it would have the name of a file of the "
                       "chain (name another file)");
        return false;
    }
    if (is_there &&
        copy_is_chain_file(copy->image, &status)) /* copy_target_open says so */
        return true;
    if (options->resume) {
        if (has_journal && is_there)
            return copy_journal_load(copy->journal, &copy->start, error);
        if (is_file)
            qimg_set_error(error, QIMG_ERROR_REFUSED,
                           "exists, and has no journal of a copy that could go on: it is "
                           "complete, or something else (begin anew with --force)");
        return !is_file;
    }
    if (options->overwrite || (!is_file && !has_journal))
        return true;
    qimg_set_error(
        error, QIMG_ERROR_REFUSED,
        has_journal ? "holds a copy that was interrupted (go on with --resume, or begin "
                      "anew with --force)"
                    : "exists (name another file, or replace it with --force)");
    return false;
}

/* Takes over what an earlier copy has done. */
static bool
take_over(QimgCopy *copy, GError **error)
{
    GArray *unreadable = copy->start.unreadable;

    if (unreadable && unreadable->len > 0 && !copy->options.rescue) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "the copy has gone over ranges that cannot be read (go on with "
                       "--rescue --resume)");
        return false;
    }
    copy->report.resumed_bytes = copy->report.done_bytes = copy->start.done_bytes;
    if (copy->options.digests) /* all is read again, and found again */
        return true;
    copy->report.data_bytes = copy->start.data_bytes;
    for (guint i = 0; unreadable && i < unreadable->len; i++)
        range_log_add(&copy->log, &g_array_index(unreadable, QimgUnreadable, i));
    return true;
}

/* Opens the target, and lets it and the journal say the same: what an earlier copy has
 * done, or nothing. */
static bool
open_target(QimgCopy *copy, GError **error)
{
    const char *path = copy->options.target_path;
    uint64_t size_bytes = copy->report.size_bytes;

    copy->journal = copy_journal_new(path, copy->image, copy->options.source_name);
    if (!check_earlier_copy(copy, error) || !take_over(copy, error) ||
        !copy_target_open(&copy->target, path, copy->image, size_bytes, error))
        return false;
    copy->has_journal = copy->start.done_bytes > 0;
    if (!copy->has_journal) {
        CopyState nothing = {.unreadable =
                                 g_array_new(FALSE, FALSE, sizeof(QimgUnreadable))};

        /* Without a journal the copy can be made, but not go on. */
        copy->has_journal = copy_journal_store(copy->journal, &nothing) == 0;
        copy_state_clear(&nothing);
    }
    return copy_target_prepare(&copy->target, size_bytes, copy->start.done_bytes,
                               error) &&
           copy_journal_begin(copy->journal, copy->target.storage, error);
}

static bool
start_digests(QimgCopy *copy, GError **error)
{
    for (unsigned i = 0; i < QIMG_N_DIGESTS; i++) {
        if (!(copy->options.digests & 1u << i))
            continue;
        copy->digests[i] = copy_digest_new((QimgDigest)i, error);
        if (!copy->digests[i])
            return false;
    }
    if (copy->options.digests && copy->options.hash_files)
        copy->files = file_digests_start(copy->image->chain, copy->image->first_layer,
                                         copy->options.digests, copy->options.n_threads,
                                         &copy->stop);
    return true;
}

/* ---- meanwhile ------------------------------------------------------------------------
 */

static CopyState
present_state(const QimgCopy *copy)
{
    return (CopyState){copy->report.done_bytes, copy->report.data_bytes,
                       range_log_snapshot(&copy->log)};
}

static bool
post_state(QimgCopy *copy, GError **error)
{
    QimgErrno err = copy_journal_get_error(copy->journal);
    CopyState state;

    if (err) {
        copy->report.is_target_at_fault = true;
        qimg_set_error_errno(error, -err, NULL, "what was written cannot be synced");
        return false;
    }
    /* What is read again is in the journal already. */
    if (!copy->has_journal || copy->report.done_bytes <= copy->start.done_bytes ||
        !copy_journal_is_due(copy->journal, copy->report.done_bytes))
        return true;
    state = present_state(copy);
    if (state.unreadable)
        copy_journal_post(copy->journal, &state);
    return true;
}

static bool
check_result(QimgCopy *copy, const CopyResult *result, GError **error)
{
    guint64 at = result->piece.guest_offset;

    if (result->read_error) {
        qimg_set_error_errno(error, -result->read_error, NULL,
                             "cannot read offset %" G_GUINT64_FORMAT " of the disk", at);
        return false;
    }
    if (result->bad && result->bad->len > 0 && !copy->options.rescue) {
        const QimgUnreadable *first = &g_array_index(result->bad, QimgUnreadable, 0);

        qimg_set_error(error, QIMG_ERROR_FAILED,
                       "cannot read offset %" G_GUINT64_FORMAT " of the disk: %s (with "
                       "--rescue the copy has zeros there, and goes on)",
                       (guint64)first->guest_offset, first->reason);
        return false;
    }
    if (result->write_error) {
        copy->report.is_target_at_fault = true;
        qimg_set_error_errno(error, -result->write_error,
                             result->write_error == -ENOSPC ? "make room" : NULL,
                             "cannot write at offset %" G_GUINT64_FORMAT, at);
        return false;
    }
    return true;
}

/* CopyJob.consume. */
static bool
consume(void *user, const CopyResult *result, GError **error)
{
    QimgCopy *copy = user;
    const CopyPiece *piece = &result->piece;

    if (!check_result(copy, result, error))
        return false;
    for (guint i = 0; result->bad && i < result->bad->len; i++)
        range_log_add(&copy->log, &g_array_index(result->bad, QimgUnreadable, i));
    copy->report.data_bytes += result->data_bytes;
    copy->report.done_bytes = piece->guest_offset + piece->length_bytes;
    return !copy->target.storage || post_state(copy, error);
}

/* CopyJob.on_progress. */
static void
on_progress(void *user, uint64_t done_bytes)
{
    QimgCopy *copy = user;

    if (copy->options.on_progress)
        copy->options.on_progress(done_bytes, copy->options.user);
}

static bool
copy_pieces(QimgCopy *copy, GError **error)
{
    CopyJob job = {
        .image = copy->image,
        .target = &copy->target,
        .size_bytes = copy->report.size_bytes,
        .begin_offset = copy->options.digests ? 0 : copy->start.done_bytes,
        .present_bytes = copy->start.done_bytes,
        .n_threads = copy->options.n_threads,
        .stop = &copy->stop,
        .consume = consume,
        .on_progress = on_progress,
        .user = copy,
    };

    copy->report.done_bytes = job.begin_offset;
    memcpy(job.digests, copy->digests, sizeof job.digests);
    return copy_engine_run(&job, error);
}

/* ---- after ----------------------------------------------------------------------------
 */

static bool
finish_digests(QimgCopy *copy, GError **error)
{
    for (unsigned i = 0; i < QIMG_N_DIGESTS; i++)
        if (copy->digests[i])
            copy->report.digests[i] =
                copy_digest_finish(g_steal_pointer(&copy->digests[i]));
    if (!copy->files)
        return true;
    file_digests_join(copy->files);
    copy->report.files = file_digests_get(copy->files, &copy->report.n_files);
    if (atomic_load_explicit(&copy->stop, memory_order_relaxed))
        return false;
    for (unsigned i = 0; i < copy->report.n_files && !copy->options.rescue; i++) {
        const QimgFileDigests *file = &copy->report.files[i];

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

/* Makes a complete target durable, and forgets that it was not. */
static bool
finish_target(QimgCopy *copy, GError **error)
{
    QimgErrno err;

    if (!copy->target.storage)
        return true;
    copy_journal_end(copy->journal);
    err = qimg_storage_sync(copy->target.storage);
    if (!err && !copy->target.is_device)
        err = copy_sync_directory(copy->options.target_path);
    if (err) {
        copy->report.is_target_at_fault = true;
        qimg_set_error_errno(error, -err, NULL, "what was written cannot be synced");
        return false;
    }
    copy_journal_remove(copy->journal);
    return true;
}

/* Keeps what an interrupted copy has done, if there is a journal to say so, and removes
 * it if not. */
static void
leave_target(QimgCopy *copy)
{
    CopyState state;
    bool has_more, is_begun;

    if (!copy->target.storage)
        return; /* nothing has changed */
    copy_journal_end(copy->journal);
    state = present_state(copy);
    has_more = state.done_bytes > copy->start.done_bytes;
    copy->report.done_bytes =
        qimg_max_u64(copy->report.done_bytes, copy->start.done_bytes);
    is_begun = copy->report.done_bytes > 0;
    /* What lies behind is of no use (I2), and its space may be what the journal needs. */
    if (copy->has_journal && has_more &&
        (!state.unreadable ||
         !copy_target_prepare(&copy->target, copy->report.size_bytes, state.done_bytes,
                              NULL) ||
         qimg_storage_sync(copy->target.storage) != 0 ||
         copy_journal_store(copy->journal, &state) != 0))
        copy->report.done_bytes = copy->start.done_bytes; /* at least */
    copy_state_clear(&state);
    copy->report.is_resumable = copy->has_journal && is_begun;
    if (copy->report.is_resumable)
        return;
    copy_journal_remove(copy->journal);
    if (!copy->target.is_device)
        unlink(copy->options.target_path);
}

gboolean
qimg_copy_run(QimgCopy *copy, GError **error)
{
    GError *own_error = NULL;
    bool is_good = check_image(copy->image, &own_error);

    if (is_good && copy->options.target_path) {
        is_good = open_target(copy, &own_error);
        copy->report.is_target_at_fault = !is_good;
    }
    is_good = is_good && start_digests(copy, &own_error) &&
              copy_pieces(copy, &own_error) && finish_digests(copy, &own_error) &&
              finish_target(copy, &own_error);
    range_log_finish(&copy->log);
    copy->report.n_unreadable = copy->log.n_ranges;
    copy->report.unreadable_bytes = copy->log.n_bytes;
    copy->report.unreadable = (const QimgUnreadable *)(void *)copy->log.listed->data;
    copy->report.n_listed = copy->log.listed->len;
    if (is_good)
        return TRUE;
    leave_target(copy);
    if (!own_error)
        qimg_set_error(&own_error, QIMG_ERROR_FAILED, "the copy was stopped");
    g_propagate_error(error, own_error);
    return FALSE;
}
