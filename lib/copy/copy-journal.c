/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal of a copy: a small file beside the target that records the source, the
 * target file, and the progress, so that an interrupted copy can be resumed after any
 * interruption. It may understate the progress, but never overstates it.
 *
 * Each line is a JSON object, a space, a checksum. The first line names source and
 * target, the others record progress, each with the ranges found unreadable since the
 * previous line. The file is created once, and then accessed only by its descriptor:
 * lines are appended, and the last complete one counts. A partial line after it was being
 * written when the machine stopped, and is overwritten. */
#include "copy/copy-journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/errors.h"
#include "base/workers.h"
#include "copy/copy-place.h"
#include "copy/copy-rescue.h"
#include "copy/copy-source.h"

#define VERSION 2
/* The start of each version; version 1 was one object of several lines. */
#define HEADER_START    "{\"qimg-copy\": "
#define VERSION_1_START "{\n \"version\": 1,"
#define SUM_LENGTH      16u
/* More than 65536 ranges and the states of 32 TiB need. */
#define MAX_BYTES  (48 * QIMG_MIB)
#define MAX_REASON 256u
/* At most this much is copied again after a crash. */
#define DUE_BYTES   (256 * QIMG_MIB)
#define DUE_SECONDS 3

struct CopyJournal {
    const CopyPlace *place; /* these four: const once opened or created */
    const char *name;
    int fd;               /* -1: none */
    json_t *source;       /* const: the source */
    json_t *found_source; /* the source according to the opened journal */
    CopyIdentity identity;
    CopyState found;
    /* Owned by the storing thread: the caller's, except between begin and end. */
    uint64_t end_offset;      /* of the last complete line */
    uint64_t stored_bytes;    /* done_bytes of the last state in the file */
    uint64_t last_done_bytes; /* these two: of the posting thread */
    time_t last_time_s;
    QimgStorage *target; /* const between begin and end */
    pthread_t thread;
    bool is_running; /* of the posting thread */
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
    g_clear_pointer(&state->stamp, g_free);
}

/* ---- begin and end ---- */

CopyJournal *
copy_journal_new(const QimgImage *image, const char *source_name)
{
    CopyJournal *journal = g_new0(CopyJournal, 1);

    journal->fd = -1;
    journal->source = copy_source_describe(image, source_name);
    qimg_mutex_init(&journal->lock, QIMG_RANK_COPY);
    qimg_cond_init(&journal->wake);
    return journal;
}

static void
forget_found(CopyJournal *journal)
{
    copy_state_clear(&journal->found);
    journal->found = (CopyState){0};
    g_clear_pointer(&journal->found_source, json_decref);
}

void
copy_journal_free(CopyJournal *journal)
{
    if (!journal)
        return;
    copy_journal_end(journal);
    qimg_cond_clear(&journal->wake);
    qimg_mutex_clear(&journal->lock);
    forget_found(journal);
    json_decref(journal->source);
    if (journal->fd >= 0)
        close(journal->fd);
    g_free(journal);
}

bool
copy_journal_check_source(const CopyJournal *journal, bool *is_untouched_out,
                          GError **error)
{
    bool is_touched = false;
    g_autofree char *difference =
        copy_source_find_difference(journal->found_source, journal->source, &is_touched);

    *is_untouched_out = !is_touched;
    if (difference)
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "the copy cannot go on: %s (start again with --force)",
                       difference);
    return !difference;
}

/* ---- lines ---- */

/* The line for @root (taken); NULL if memory is short. */
static char *
encode_line(json_t *root)
{
    char *text = json_dumps(root, 0);
    g_autofree char *sum = NULL;
    char *line = NULL;

    json_decref(root);
    if (!text)
        return NULL;
    sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, text, -1);
    line = g_strdup_printf("%s %.*s\n", text, (int)SUM_LENGTH, sum);
    free(text);
    return line;
}

/* The object of the line [@line, @end), its newline excluded; NULL if the line is
 * invalid. */
static json_t *
decode_line(const char *line, const char *end)
{
    g_autofree char *sum = NULL;
    size_t n_json;

    if ((size_t)(end - line) < SUM_LENGTH + 2 || end[-(int)SUM_LENGTH - 1] != ' ')
        return NULL;
    n_json = (size_t)(end - line) - SUM_LENGTH - 1;
    sum = g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)line, n_json);
    if (memcmp(sum, end - SUM_LENGTH, SUM_LENGTH) != 0)
        return NULL;
    return json_loadb(line, n_json, 0, NULL);
}

static bool
is_plain_text(const char *text)
{
    if (strlen(text) > MAX_REASON)
        return false;
    for (; *text; text++)
        if (g_ascii_iscntrl(*text))
            return false;
    return true;
}

/* Adds the ranges of @list, all in [@start, @end), to @out. */
static bool
decode_unreadable(const json_t *list, uint64_t start, uint64_t end, GArray *out)
{
    size_t i;
    json_t *item;

    if (!json_is_array(list))
        return false;
    json_array_foreach(list, i, item)
    {
        json_int_t at = -1, length = -1;
        const char *reason = NULL;
        QimgUnreadable range;

        if (json_unpack(item, "{s:I, s:I, s:s}", "start", &at, "length", &length,
                        "reason", &reason) != 0 ||
            at < 0 || length <= 0 || (uint64_t)at < start ||
            (uint64_t)at + (uint64_t)length > end || !is_plain_text(reason) ||
            out->len >= 2 * COPY_MAX_LISTED)
            return false;
        range = copy_unreadable((uint64_t)at, (uint64_t)length, g_intern_string(reason));
        start = range.guest_offset + range.length_bytes;
        g_array_append_val(out, range);
    }
    return true;
}

/* Updates *@state from a line. */
static bool
decode_state(json_t *root, uint64_t size_bytes, CopyState *state)
{
    json_t *unreadable = NULL;
    const char *stamp = NULL;
    json_int_t done = -1, data = -1;

    if (json_unpack(root, "{s:I, s:I, s:o, s?s}", "offset", &done, "data-bytes", &data,
                    "unreadable", &unreadable, "stamp", &stamp) != 0 ||
        done < 0 || data < 0 || (uint64_t)done < state->done_bytes ||
        (uint64_t)done > size_bytes || data > done ||
        !decode_unreadable(unreadable, state->done_bytes, (uint64_t)done,
                           state->unreadable))
        return false;
    state->done_bytes = (uint64_t)done;
    state->data_bytes = (uint64_t)data;
    g_free(state->stamp);
    state->stamp = g_strdup(stamp);
    return true;
}

static bool
decode_header(json_t *root, CopyJournal *journal)
{
    json_t *source = NULL;
    json_int_t version = 0, inode = -1, size = -1, source_size = -1;
    int is_device = 0;

    if (json_unpack(root, "{s:I, s:o, s:{s:b, s:I, s:I}}", "qimg-copy", &version,
                    "source", &source, "target", "is-device", &is_device, "inode", &inode,
                    "size", &size) != 0 ||
        version != VERSION || size < 0 ||
        json_unpack(source, "{s:I}", "size", &source_size) != 0 || source_size < 0 ||
        (is_device ? source_size > size : source_size != size))
        return false;
    journal->identity = (CopyIdentity){is_device != 0, (uint64_t)inode, (uint64_t)size};
    journal->found_source = json_incref(source);
    return true;
}

/* Reads all lines of [@text, @end). */
static bool
decode(CopyJournal *journal, const char *text, const char *end)
{
    const char *line = text;
    const char *line_end;

    journal->found.unreadable = g_array_new(FALSE, FALSE, sizeof(QimgUnreadable));
    while ((line_end = memchr(line, '\n', (size_t)(end - line)))) {
        json_t *root = decode_line(line, line_end);
        bool is_header = line == text;
        bool is_good =
            root && (is_header ? decode_header(root, journal)
                               : decode_state(root, journal->identity.size_bytes,
                                              &journal->found));

        if (root && !is_good) {
            json_decref(root);
            return false; /* complete, but not in our format */
        }
        if (!root)
            break;
        json_decref(root);
        line = line_end + 1;
    }
    journal->end_offset = (uint64_t)(line - text);
    journal->stored_bytes = journal->found.done_bytes;
    return line > text;
}

/* ---- the file ---- */

/* Reads all of a small file; free with g_free. NULL: unreadable, or larger. */
static char *
read_all(int fd, size_t *n_out)
{
    struct stat status;
    char *text;
    size_t done = 0, n;

    if (fstat(fd, &status) < 0 || status.st_size > (off_t)MAX_BYTES)
        return NULL;
    n = (size_t)status.st_size;
    text = g_try_malloc(n + 1);
    while (text && done < n) {
        ssize_t got = pread(fd, text + done, n - done, (off_t)done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    *n_out = done;
    return text;
}

static bool
is_zeros(const char *text, size_t n_bytes)
{
    while (n_bytes > 0 && text[n_bytes - 1] == 0)
        n_bytes--;
    return n_bytes == 0;
}

/* Whether one of @text and @start is a prefix of the other. */
static bool
begins_alike(const char *text, size_t n_bytes, const char *start)
{
    return memcmp(text, start, qimg_min_u64(n_bytes, strlen(start))) == 0;
}

CopyJournalKind
copy_journal_open(CopyJournal *journal, const CopyPlace *place, const char *name)
{
    g_autofree char *text = NULL;
    size_t n = 0;
    int fd;
    struct stat status;

    journal->place = place;
    journal->name = name;
    fd = copy_place_open_file(place, name, O_RDWR);
    if (fd < 0)
        return errno == ENOENT ? COPY_JOURNAL_NONE : COPY_JOURNAL_FOREIGN;
    if (journal->fd >= 0)
        close(journal->fd);
    journal->fd = fd;
    forget_found(journal);
    text = fstat(fd, &status) == 0 && status.st_nlink == 1 ? read_all(fd, &n) : NULL;
    if (!text)
        return COPY_JOURNAL_FOREIGN;
    /* A file whose size reached the medium before its content. */
    if (is_zeros(text, n))
        return COPY_JOURNAL_BLANK;
    if (decode(journal, text, text + n))
        return COPY_JOURNAL_STATES;
    forget_found(journal);
    if (begins_alike(text, n, HEADER_START))
        return memchr(text, '\n', n) ? COPY_JOURNAL_BROKEN : COPY_JOURNAL_BLANK;
    return begins_alike(text, n, VERSION_1_START) ? COPY_JOURNAL_BROKEN
                                                  : COPY_JOURNAL_FOREIGN;
}

void
copy_journal_get(const CopyJournal *journal, CopyState *state_out,
                 CopyIdentity *identity_out)
{
    *state_out = (CopyState){
        .done_bytes = journal->found.done_bytes,
        .data_bytes = journal->found.data_bytes,
        .unreadable = g_array_copy(journal->found.unreadable),
        .stamp = g_strdup(journal->found.stamp),
    };
    *identity_out = journal->identity;
}

/* Appends @line (freed); a failure leaves nothing of it. */
static QimgErrno
append_line(CopyJournal *journal, char *line)
{
    g_autofree char *text = line;
    size_t n = text ? strlen(text) : 0, done = 0;
    QimgErrno err = 0;

    if (!text)
        return -ENOMEM;
    if (journal->end_offset + n > MAX_BYTES)
        return -EFBIG;
    if (ftruncate(journal->fd, (off_t)journal->end_offset) < 0)
        return -errno;
    while (!err && done < n) {
        ssize_t put = pwrite(journal->fd, text + done, n - done,
                             (off_t)(journal->end_offset + done));

        if (put >= 0)
            done += (size_t)put;
        else if (errno != EINTR)
            err = -errno;
    }
    if (!err && fdatasync(journal->fd) < 0)
        err = -errno;
    if (!err)
        journal->end_offset += n;
    else if (ftruncate(journal->fd, (off_t)journal->end_offset) < 0)
        g_debug("part of a line stays in the journal");
    return err;
}

QimgErrno
copy_journal_make(CopyJournal *journal, const CopyIdentity *identity)
{
    json_t *root;

    if (journal->fd < 0)
        journal->fd = copy_place_make_file(journal->place, journal->name, 0666);
    if (journal->fd < 0)
        return -errno;
    forget_found(journal);
    journal->identity = *identity;
    journal->end_offset = journal->stored_bytes = 0;
    root = json_pack("{s:i, s:O, s:{s:b, s:I, s:I}}", "qimg-copy", VERSION, "source",
                     journal->source, "target", "is-device", (int)identity->is_device,
                     "inode", (json_int_t)identity->inode, "size",
                     (json_int_t)identity->size_bytes);
    return append_line(journal, encode_line(root));
}

QimgErrno
copy_journal_store(CopyJournal *journal, const CopyState *state)
{
    json_t *list = json_array();
    json_t *root;
    QimgErrno err;

    for (guint i = 0; i < state->unreadable->len; i++) {
        const QimgUnreadable *range =
            &g_array_index(state->unreadable, QimgUnreadable, i);
        uint64_t end = range->guest_offset + range->length_bytes;
        uint64_t start = qimg_max_u64(range->guest_offset, journal->stored_bytes);

        if (start < end)
            json_array_append_new(
                list, json_pack("{s:I, s:I, s:s}", "start", (json_int_t)start, "length",
                                (json_int_t)(end - start), "reason", range->reason));
    }
    root = json_pack("{s:I, s:I, s:o, s:s*}", "offset", (json_int_t)state->done_bytes,
                     "data-bytes", (json_int_t)state->data_bytes, "unreadable", list,
                     "stamp", state->stamp);
    err = append_line(journal, encode_line(root));
    if (!err)
        journal->stored_bytes = state->done_bytes;
    return err;
}

void
copy_journal_remove(CopyJournal *journal)
{
    if (journal->fd >= 0)
        copy_place_remove(journal->place, journal->name, journal->fd);
}

/* ---- in the background ---- */

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
        /* If this write fails, an interrupted copy has more to redo. */
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
