/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Storages that record all that changes them, in the order in which it was completed, and
 * what a crash after any prefix of that record may leave of the files. One record may
 * cover several files, so that the order between them is known. */
#pragma once

#include <glib.h>

#include "storage/storage.h"

typedef enum {
    CRASH_WRITE,
    CRASH_PUNCH,
    CRASH_SET_SIZE,
    CRASH_SYNC,
} CrashEventKind;

typedef struct {
    CrashEventKind kind;
    unsigned file_index;
    QimgIoPurpose purpose; /* WRITE, PUNCH */
    uint64_t file_offset;  /* SET_SIZE: the size */
    uint64_t n_bytes;
    uint8_t *bytes;   /* WRITE; owned by the record */
    GByteArray *seen; /* before the event, by the record's look; owned; NULL: no look */
} CrashEvent;

/* A record; any thread may use it. */
typedef struct CrashRecord CrashRecord;

CrashRecord *crash_record_new(void);
void crash_record_free(CrashRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashRecord, crash_record_free)

/* Lets @look(@user) see what else there is before each event to come: what it returns is
 * the event's. It runs in the thread whose event it is. */
void crash_record_set_look(CrashRecord *record, GByteArray *(*look)(void *user),
                           void *user);

/* Events so far. */
size_t crash_record_length(CrashRecord *record);

/* The event number @index. Not while storages still record. */
const CrashEvent *crash_record_get(CrashRecord *record, size_t index);

/* Makes a storage that passes all calls to @inner, which it owns, and adds those that
 * succeed and change something to @record, which must outlive it. Changes come one at a
 * time; a test that blocks one of them in @inner blocks all. */
QimgStorage *recording_storage_new(QimgStorage *inner, CrashRecord *record,
                                   unsigned file_index);

/* Follows a record, one file of it, and builds what a crash may leave. */
typedef struct CrashReplay CrashReplay;

/* Begins with @bytes as the file was before the record; they are copied. */
CrashReplay *crash_replay_new(CrashRecord *record, unsigned file_index, const void *bytes,
                              size_t n_bytes);
void crash_replay_free(CrashReplay *replay);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashReplay, crash_replay_free)

/* Moves on to the prefix of @n_events events, which is not shorter than before. */
void crash_replay_advance(CrashReplay *replay, size_t n_events);

/* The file as the process leaves it that dies after the prefix: all of it. The next
 * event, if it is a write, is done up to @n_bytes_of_next bytes. Free with
 * g_byte_array_unref. */
GByteArray *crash_replay_process(CrashReplay *replay, uint64_t n_bytes_of_next);

/* The file as a machine may leave it that dies after the prefix: all that lies before the
 * last sync, and of what came then any part, torn at sectors. How much survives is chosen
 * anew by @rand for each call: all, nothing, or some of it. */
GByteArray *crash_replay_machine(CrashReplay *replay, GRand *rand);
