/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The journal of a copy: a small JSON file beside the target that says what is copied and
 * how far it has come, so that a copy that was interrupted, by whatever, can go on. It is
 * replaced as a whole, never changed, and says less than is true rather than more. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/errors.h"
#include "image/copy-out.h"

#define SUFFIX  ".qimg-resume"
#define VERSION 1
/* So much is copied again at most after a crash. */
#define DUE_BYTES   (256 * QIMG_MIB)
#define DUE_SECONDS 3

struct CopyJournal {
    char *path;               /* const */
    char *new_path;           /* const: becomes path once it is complete */
    json_t *source;           /* const: what is copied */
    uint64_t last_done_bytes; /* these two: of the thread that posts */
    time_t last_time_s;
    QimgStorage *target; /* const between begin and end */
    pthread_t thread;
    bool is_running; /* of the thread that posts */
    QimgMutex lock;  /* rank QIMG_RANK_COPY */
    QimgCond wake;
    CopyState posted; /* guarded by lock */
    bool is_posted;   /* guarded by lock: until it is written */
    bool is_ending;   /* guarded by lock */
    QimgErrno error;  /* guarded by lock */
};

void
copy_state_clear(CopyState *state)
{
    g_clear_pointer(&state->unreadable, g_array_unref);
}

/* ---- what is copied -------------------------------------------------------------------
 */

static void
add_file(json_t *files, QimgStorage *storage)
{
    g_autofree char *real = NULL;
    g_autofree char *name = NULL;
    g_autofree char *mtime = NULL;
    uint64_t size_bytes = 0;
    char *resolved;

    if (!storage)
        return;
    resolved = realpath(storage->path, NULL);
    real = g_strdup(resolved ? resolved : storage->path);
    free(resolved);
    name = g_strescape(real, NULL); /* names may be anything but UTF-8 */
    /* That of a device's node says nothing of its content. */
    mtime = S_ISREG(storage->status.st_mode)
                ? g_strdup_printf("%lld.%09ld", (long long)storage->status.st_mtim.tv_sec,
                                  storage->status.st_mtim.tv_nsec)
                : g_strdup("");
    if (qimg_storage_get_size(storage, &size_bytes) != 0)
        size_bytes = 0;
    json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "filename", name, "size",
                                           (json_int_t)size_bytes, "mtime", mtime));
}

CopyJournal *
copy_journal_new(const char *target_path, const QimgImage *image, const char *source_name)
{
    CopyJournal *journal = g_new0(CopyJournal, 1);
    g_autofree char *name = g_strescape(source_name, NULL);
    json_t *files = json_array();

    for (unsigned i = image->first_layer; i < image->chain->n_layers; i++) {
        add_file(files, image->chain->layers[i]->file);
        add_file(files, image->chain->layers[i]->data_file);
    }
    journal->path = g_strconcat(target_path, SUFFIX, NULL);
    journal->new_path = g_strconcat(journal->path, ".new", NULL);
    journal->source = json_pack("{s:s, s:I, s:o}", "name", name, "size",
                                (json_int_t)image_size_bytes(image), "files", files);
    qimg_mutex_init(&journal->lock, QIMG_RANK_COPY);
    qimg_cond_init(&journal->wake);
    return journal;
}

void
copy_journal_free(CopyJournal *journal)
{
    if (!journal)
        return;
    copy_journal_end(journal);
    qimg_cond_clear(&journal->wake);
    qimg_mutex_clear(&journal->lock);
    json_decref(journal->source);
    g_free(journal->new_path);
    g_free(journal->path);
    g_free(journal);
}

/* What of the source is not as it was when a copy began; NULL: nothing. */
static char *
find_difference(const json_t *then, const json_t *now)
{
    json_t *old_files = json_object_get(then, "files");
    json_t *files = json_object_get(now, "files");
    size_t i;
    json_t *file;

    if (!json_equal(json_object_get(then, "name"), json_object_get(now, "name")))
        return g_strdup_printf("it was begun with \"%s\"",
                               json_string_value(json_object_get(then, "name")));
    if (json_array_size(old_files) != json_array_size(files))
        return g_strdup("the chain has other files");
    json_array_foreach(files, i, file)
    {
        json_t *old = json_array_get(old_files, i);
        const char *name = json_string_value(json_object_get(file, "filename"));

        if (!json_equal(json_object_get(old, "filename"),
                        json_object_get(file, "filename")))
            return g_strdup_printf("it was begun with \"%s\", not with \"%s\"",
                                   json_string_value(json_object_get(old, "filename")),
                                   name);
        if (!json_equal(old, file))
            return g_strdup_printf("\"%s\" has changed since", name);
    }
    return json_equal(then, now) ? NULL : g_strdup("the disk has another size");
}

/* ---- the file -------------------------------------------------------------------------
 */

bool
copy_journal_exists(const CopyJournal *journal, struct stat *status_out)
{
    return stat(journal->path, status_out) == 0;
}

static bool
parse_unreadable(json_t *list, GArray *out)
{
    uint64_t end = 0;
    size_t i;
    json_t *item;

    if (!json_is_array(list) || json_array_size(list) > COPY_MAX_LISTED)
        return false;
    json_array_foreach(list, i, item)
    {
        json_int_t start = -1, length = -1;
        const char *reason = NULL;
        QimgUnreadable range;

        if (json_unpack(item, "{s:I, s:I, s:s}", "start", &start, "length", &length,
                        "reason", &reason) != 0 ||
            start < 0 || length <= 0 || (uint64_t)start < end)
            return false;
        range =
            (QimgUnreadable){(uint64_t)start, (uint64_t)length, g_intern_string(reason)};
        end = range.guest_offset + range.length_bytes;
        g_array_append_val(out, range);
    }
    return true;
}

static bool
parse_state(json_t *root, CopyState *state)
{
    json_t *unreadable = NULL;
    json_int_t version = 0, done = -1, data = -1, size = -1;

    if (json_unpack(root, "{s:I, s:I, s:I, s:{s:I}, s:o}", "version", &version, "offset",
                    &done, "data-bytes", &data, "source", "size", &size, "unreadable",
                    &unreadable) != 0)
        return false;
    state->done_bytes = (uint64_t)done;
    state->data_bytes = (uint64_t)data;
    return version == VERSION && done >= 0 && data >= 0 && done <= size && data <= done &&
           parse_unreadable(unreadable, state->unreadable);
}

bool
copy_journal_load(CopyJournal *journal, CopyState *state_out, GError **error)
{
    json_t *root = json_load_file(journal->path, 0, NULL);
    CopyState state = {.unreadable = g_array_new(FALSE, FALSE, sizeof(QimgUnreadable))};
    g_autofree char *difference = NULL;
    bool is_good = root && parse_state(root, &state);

    if (is_good)
        difference = find_difference(json_object_get(root, "source"), journal->source);
    if (root)
        json_decref(root);
    if (is_good && !difference) {
        *state_out = state;
        return true;
    }
    copy_state_clear(&state);
    if (difference)
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "the copy cannot go on: %s (begin anew with --force)", difference);
    else
        qimg_set_error(error, QIMG_ERROR_INVALID,
                       "the copy cannot go on: its journal \"%s\" makes no sense (begin "
                       "anew with --force)",
                       journal->path);
    return false;
}

static QimgErrno
write_all(int fd, const char *text)
{
    size_t n_left = strlen(text);

    while (n_left > 0) {
        ssize_t put = write(fd, text, n_left);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        text += put;
        n_left -= (size_t)put;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

static QimgErrno
replace_file(const CopyJournal *journal, const char *text)
{
    qimg_autofd fd = open(journal->new_path,
                          O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    QimgErrno err = fd < 0 ? -errno : write_all(fd, text);

    if (!err && rename(journal->new_path, journal->path) < 0)
        err = -errno;
    if (!err)
        return copy_sync_directory(journal->path);
    if (fd >= 0)
        unlink(journal->new_path);
    return err;
}

QimgErrno
copy_journal_store(CopyJournal *journal, const CopyState *state)
{
    json_t *list = json_array();
    json_t *root;
    char *text;
    QimgErrno err;

    for (guint i = 0; i < state->unreadable->len; i++) {
        const QimgUnreadable *range =
            &g_array_index(state->unreadable, QimgUnreadable, i);

        json_array_append_new(list, json_pack("{s:I, s:I, s:s}", "start",
                                              (json_int_t)range->guest_offset, "length",
                                              (json_int_t)range->length_bytes, "reason",
                                              range->reason));
    }
    root = json_pack("{s:i, s:I, s:I, s:O, s:o}", "version", VERSION, "offset",
                     (json_int_t)state->done_bytes, "data-bytes",
                     (json_int_t)state->data_bytes, "source", journal->source,
                     "unreadable", list);
    text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    err = text ? replace_file(journal, text) : -ENOMEM;
    free(text);
    return err;
}

void
copy_journal_remove(CopyJournal *journal)
{
    unlink(journal->path);
    unlink(journal->new_path); /* of a run that was killed */
}

/* ---- in the background ----------------------------------------------------------------
 */

static void *
journal_main(void *user)
{
    CopyJournal *journal = user;

    qimg_mutex_lock(&journal->lock);
    for (;;) {
        CopyState state;
        QimgErrno err;

        while (!journal->is_posted && !journal->is_ending)
            qimg_cond_wait(&journal->wake, &journal->lock);
        if (!journal->is_posted)
            break;
        state = journal->posted;
        journal->posted = (CopyState){0};
        qimg_mutex_unlock(&journal->lock);
        err = qimg_storage_sync(journal->target);
        /* Where it cannot be written, a copy that is interrupted has more to do again. */
        if (!err)
            copy_journal_store(journal, &state);
        copy_state_clear(&state);
        qimg_mutex_lock(&journal->lock);
        journal->is_posted = false;
        if (err)
            journal->error = err;
    }
    qimg_mutex_unlock(&journal->lock);
    return NULL;
}

static time_t
now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec;
}

bool
copy_journal_begin(CopyJournal *journal, QimgStorage *target, GError **error)
{
    journal->target = target;
    journal->last_time_s = now_s();
    journal->is_running = qimg_thread_start(&journal->thread, journal_main, journal);
    if (!journal->is_running)
        qimg_set_error(error, QIMG_ERROR_FAILED,
                       "no thread can be made (allow more processes)");
    return journal->is_running;
}

bool
copy_journal_is_due(CopyJournal *journal, uint64_t done_bytes)
{
    if (done_bytes - journal->last_done_bytes < DUE_BYTES &&
        now_s() - journal->last_time_s < DUE_SECONDS)
        return false;
    QIMG_LOCK_SCOPE(&journal->lock);
    return !journal->is_posted;
}

void
copy_journal_post(CopyJournal *journal, CopyState *state)
{
    QIMG_LOCK_SCOPE(&journal->lock);

    g_assert(!journal->is_posted && journal->is_running);
    journal->last_done_bytes = state->done_bytes;
    journal->last_time_s = now_s();
    journal->posted = *state;
    *state = (CopyState){0};
    journal->is_posted = true;
    qimg_cond_signal(&journal->wake);
}

QimgErrno
copy_journal_get_error(CopyJournal *journal)
{
    QIMG_LOCK_SCOPE(&journal->lock);

    return journal->error;
}

void
copy_journal_end(CopyJournal *journal)
{
    if (!journal->is_running)
        return;
    qimg_mutex_lock(&journal->lock);
    journal->is_ending = true;
    qimg_cond_signal(&journal->wake);
    qimg_mutex_unlock(&journal->lock);
    pthread_join(journal->thread, NULL);
    journal->is_running = false;
}
