/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The mutex of the record is held over each change of any of its storages, so that the
 * order of events is the order in which the files changed. */
#include "recording-storage.h"

#include <string.h>

#include "base/checked.h"

struct CrashRecord {
    pthread_mutex_t lock;
    GArray *events;                  /* CrashEvent; guarded by lock */
    GByteArray *(*look)(void *user); /* const while storages record; may be NULL */
    void *look_user;
};

typedef struct {
    QimgStorage storage;
    QimgStorage *inner;  /* owned */
    CrashRecord *record; /* const */
    unsigned file_index; /* const */
} RecordingStorage;

struct CrashReplay {
    CrashRecord *record;
    unsigned file_index;
    size_t n_events;      /* the prefix */
    size_t n_durable;     /* events before the last sync in it */
    GByteArray *durable;  /* the file after n_durable events */
    GByteArray *complete; /* the file after n_events events */
};

static void
clear_event(void *event)
{
    g_clear_pointer(&((CrashEvent *)event)->seen, g_byte_array_unref);
    g_free(((CrashEvent *)event)->bytes);
}

CrashRecord *
crash_record_new(void)
{
    CrashRecord *record = g_new0(CrashRecord, 1);

    pthread_mutex_init(&record->lock, NULL);
    record->events = g_array_new(FALSE, FALSE, sizeof(CrashEvent));
    g_array_set_clear_func(record->events, clear_event);
    return record;
}

void
crash_record_free(CrashRecord *record)
{
    if (!record)
        return;
    g_array_unref(record->events);
    pthread_mutex_destroy(&record->lock);
    g_free(record);
}

void
crash_record_set_look(CrashRecord *record, GByteArray *(*look)(void *user), void *user)
{
    record->look = look;
    record->look_user = user;
}

size_t
crash_record_length(CrashRecord *record)
{
    size_t length;

    pthread_mutex_lock(&record->lock);
    length = record->events->len;
    pthread_mutex_unlock(&record->lock);
    return length;
}

const CrashEvent *
crash_record_get(CrashRecord *record, size_t index)
{
    return &g_array_index(record->events, CrashEvent, index);
}

/* ---- the storage ---- */

static ssize_t
recording_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                void *buffer, size_t n_bytes)
{
    QimgStorage *inner = ((RecordingStorage *)storage)->inner;

    return inner->ops->pread(inner, purpose, file_offset, buffer, n_bytes);
}

static QimgErrno
recording_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    QimgStorage *inner = ((RecordingStorage *)storage)->inner;

    return inner->ops->get_size(inner, size_bytes_out);
}

static uint8_t *
flatten(const struct iovec *parts, size_t n_bytes)
{
    uint8_t *bytes = g_malloc(n_bytes);

    for (size_t done = 0; done < n_bytes; parts++) {
        size_t n = MIN(parts->iov_len, n_bytes - done);

        if (n > 0)
            memcpy(bytes + done, parts->iov_base, n);
        done += n;
    }
    return bytes;
}

/* Locks the record, and calls its look. */
static GByteArray *
begin_change(RecordingStorage *r)
{
    pthread_mutex_lock(&r->record->lock);
    return r->record->look ? r->record->look(r->record->look_user) : NULL;
}

static ssize_t
recording_pwritev(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                  const struct iovec *parts, int n_parts)
{
    RecordingStorage *r = (RecordingStorage *)storage;
    GByteArray *seen = begin_change(r);
    ssize_t put;

    put = r->inner->ops->pwritev(r->inner, purpose, file_offset, parts, n_parts);
    if (put > 0) {
        CrashEvent event = {.kind = CRASH_WRITE,
                            .file_index = r->file_index,
                            .purpose = purpose,
                            .file_offset = file_offset,
                            .n_bytes = (uint64_t)put,
                            .bytes = flatten(parts, (size_t)put),
                            .seen = seen};

        g_array_append_val(r->record->events, event);
    } else {
        g_clear_pointer(&seen, g_byte_array_unref);
    }
    pthread_mutex_unlock(&r->record->lock);
    return put;
}

/* Adds an event other than a write if it succeeded, and unlocks the record. */
static QimgErrno
end_change(RecordingStorage *r, CrashEventKind kind, QimgIoPurpose purpose,
           uint64_t file_offset, uint64_t n_bytes, GByteArray *seen, QimgErrno err)
{
    CrashEvent event = {.seen = seen,
                        .kind = kind,
                        .file_index = r->file_index,
                        .purpose = purpose,
                        .file_offset = file_offset,
                        .n_bytes = n_bytes};

    if (!err)
        g_array_append_val(r->record->events, event);
    else
        g_clear_pointer(&seen, g_byte_array_unref);
    pthread_mutex_unlock(&r->record->lock);
    return err;
}

static QimgErrno
recording_sync(QimgStorage *storage)
{
    RecordingStorage *r = (RecordingStorage *)storage;
    GByteArray *seen = begin_change(r);

    return end_change(r, CRASH_SYNC, QIMG_IO_DATA, 0, 0, seen,
                      r->inner->ops->sync(r->inner));
}

static QimgErrno
recording_punch(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                uint64_t n_bytes)
{
    RecordingStorage *r = (RecordingStorage *)storage;
    GByteArray *seen = begin_change(r);

    return end_change(r, CRASH_PUNCH, purpose, file_offset, n_bytes, seen,
                      r->inner->ops->punch(r->inner, purpose, file_offset, n_bytes));
}

static QimgErrno
recording_allocate(QimgStorage *storage, uint64_t file_offset, uint64_t n_bytes)
{
    QimgStorage *inner = ((RecordingStorage *)storage)->inner;

    return inner->ops->allocate(inner, file_offset, n_bytes);
}

static QimgErrno
recording_set_size(QimgStorage *storage, uint64_t size_bytes)
{
    RecordingStorage *r = (RecordingStorage *)storage;
    GByteArray *seen = begin_change(r);

    return end_change(r, CRASH_SET_SIZE, QIMG_IO_DATA, size_bytes, 0, seen,
                      r->inner->ops->set_size(r->inner, size_bytes));
}

static void
recording_close(QimgStorage *storage)
{
    qimg_storage_close(((RecordingStorage *)storage)->inner);
    g_free(storage);
}

static const QimgStorageOps recording_ops = {
    .pread = recording_pread,
    .get_size = recording_get_size,
    .pwritev = recording_pwritev,
    .sync = recording_sync,
    .punch = recording_punch,
    .allocate = recording_allocate,
    .set_size = recording_set_size,
    .close = recording_close,
};

QimgStorage *
recording_storage_new(QimgStorage *inner, CrashRecord *record, unsigned file_index)
{
    RecordingStorage *r = g_new0(RecordingStorage, 1);

    qimg_storage_init(&r->storage, &recording_ops, inner->path,
                      atomic_load(&inner->end_bytes));
    r->storage.status = inner->status;
    r->inner = inner;
    r->record = record;
    r->file_index = file_index;
    return &r->storage;
}

/* ---- the replay ---- */

CrashReplay *
crash_replay_new(CrashRecord *record, unsigned file_index, const void *bytes,
                 size_t n_bytes)
{
    CrashReplay *replay = g_new0(CrashReplay, 1);

    replay->record = record;
    replay->file_index = file_index;
    replay->durable = g_byte_array_new();
    g_byte_array_append(replay->durable, bytes, (guint)n_bytes);
    replay->complete = g_byte_array_new();
    g_byte_array_append(replay->complete, bytes, (guint)n_bytes);
    return replay;
}

void
crash_replay_free(CrashReplay *replay)
{
    if (!replay)
        return;
    g_byte_array_unref(replay->durable);
    g_byte_array_unref(replay->complete);
    g_free(replay);
}

/* Sets the length; added bytes are zeros. */
static void
set_length(GByteArray *file, uint64_t n_bytes)
{
    guint old = file->len;

    g_assert(n_bytes < G_MAXINT); /* records are of small files */
    g_byte_array_set_size(file, (guint)n_bytes);
    if (n_bytes > old)
        memset(file->data + old, 0, n_bytes - old);
}

/* Applies the part [@start, @end) of a write or punch. */
static void
apply_part(GByteArray *file, const CrashEvent *event, uint64_t start, uint64_t end)
{
    if (event->kind == CRASH_WRITE) {
        if (end > file->len)
            set_length(file, end);
        memcpy(file->data + start, event->bytes + (start - event->file_offset),
               end - start);
    } else if (start < file->len) { /* a punch never changes the length */
        memset(file->data + start, 0, MIN(end, file->len) - start);
    }
}

static void
apply(GByteArray *file, const CrashEvent *event)
{
    if (event->kind == CRASH_SET_SIZE)
        set_length(file, event->file_offset);
    else if (event->kind != CRASH_SYNC)
        apply_part(file, event, event->file_offset, event->file_offset + event->n_bytes);
}

void
crash_replay_advance(CrashReplay *replay, size_t n_events)
{
    g_assert(n_events >= replay->n_events);
    for (; replay->n_events < n_events; replay->n_events++) {
        const CrashEvent *event = crash_record_get(replay->record, replay->n_events);

        if (event->file_index != replay->file_index)
            continue;
        apply(replay->complete, event);
        if (event->kind != CRASH_SYNC)
            continue;
        for (; replay->n_durable <= replay->n_events; replay->n_durable++) {
            event = crash_record_get(replay->record, replay->n_durable);
            if (event->file_index == replay->file_index)
                apply(replay->durable, event);
        }
    }
}

static GByteArray *
copy_of(const GByteArray *file)
{
    GByteArray *copy = g_byte_array_sized_new(file->len + 1);

    return g_byte_array_append(copy, file->data, file->len);
}

GByteArray *
crash_replay_process(CrashReplay *replay, uint64_t n_bytes_of_next)
{
    GByteArray *file = copy_of(replay->complete);
    const CrashEvent *next;

    if (n_bytes_of_next == 0 || replay->n_events == crash_record_length(replay->record))
        return file;
    next = crash_record_get(replay->record, replay->n_events);
    if (next->file_index == replay->file_index && next->kind == CRASH_WRITE)
        apply_part(file, next, next->file_offset,
                   next->file_offset + MIN(n_bytes_of_next, next->n_bytes));
    return file;
}

/* Applies each sector of a write or punch with @probability. */
static void
apply_torn(GByteArray *file, const CrashEvent *event, double probability, GRand *rand)
{
    uint64_t end = event->file_offset + event->n_bytes;
    uint64_t start = event->file_offset;

    while (start < end) {
        uint64_t sector_end =
            qimg_align_down(start, QIMG_SECTOR_BYTES) + QIMG_SECTOR_BYTES;

        if (g_rand_double(rand) < probability)
            apply_part(file, event, start, MIN(sector_end, end));
        start = sector_end;
    }
}

GByteArray *
crash_replay_machine(CrashReplay *replay, GRand *rand)
{
    static const double probabilities[] = {0.0, 0.05, 0.5, 0.95, 1.0};
    double probability =
        probabilities[g_rand_int_range(rand, 0, G_N_ELEMENTS(probabilities))];
    bool is_torn =
        g_rand_boolean(rand); /* else each change is applied as a whole or not at all */
    GByteArray *file = copy_of(replay->durable);

    for (size_t i = replay->n_durable; i < replay->n_events; i++) {
        const CrashEvent *event = crash_record_get(replay->record, i);

        if (event->file_index != replay->file_index)
            continue;
        if (is_torn && (event->kind == CRASH_WRITE || event->kind == CRASH_PUNCH))
            apply_torn(file, event, probability, rand);
        else if (g_rand_double(rand) < probability)
            apply(file, event);
    }
    return file;
}
