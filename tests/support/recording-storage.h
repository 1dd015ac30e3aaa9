/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Storages that record all their changes, in the order of completion, and the possible
 * files after a crash at any prefix of that record. One record may cover several files,
 * so that the order between them is known. */
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
    GByteArray *seen; /* before the event, from the record's look; owned; NULL: no look */
} CrashEvent;

/* A record; any thread may use it. */
typedef struct CrashRecord CrashRecord;

CrashRecord *crash_record_new(void);
void crash_record_free(CrashRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashRecord, crash_record_free)

/* Calls @look(@user) before each later event, to capture other state; its result belongs
 * to the event. It runs in the thread of the event. */
void crash_record_set_look(CrashRecord *record, GByteArray *(*look)(void *user),
                           void *user);

/* Events so far. */
size_t crash_record_length(CrashRecord *record);

/* The event number @index. Not while storages still record. */
const CrashEvent *crash_record_get(CrashRecord *record, size_t index);

/* Makes a storage that passes all calls to @inner, which it owns, and adds successful
 * changes to @record, which must outlive it. Changes are serialized; a test that blocks
 * one of them in @inner blocks all. */
QimgStorage *recording_storage_new(QimgStorage *inner, CrashRecord *record,
                                   unsigned file_index);

/* Follows one file of a record, and builds its possible states after a crash. */
typedef struct CrashReplay CrashReplay;

/* Begins with @bytes, the file before the record; they are copied. */
CrashReplay *crash_replay_new(CrashRecord *record, unsigned file_index, const void *bytes,
                              size_t n_bytes);
void crash_replay_free(CrashReplay *replay);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashReplay, crash_replay_free)

/* Advances to the prefix of @n_events events, which is not shorter than before. */
void crash_replay_advance(CrashReplay *replay, size_t n_events);

/* The file left by a process that dies after the prefix: all of it. The next event, if it
 * is a write, is done up to @n_bytes_of_next bytes. Free with g_byte_array_unref. */
GByteArray *crash_replay_process(CrashReplay *replay, uint64_t n_bytes_of_next);

/* A possible file of a machine that dies after the prefix: everything before the last
 * sync, and any part of the rest, torn at sectors. @rand chooses for each call whether
 * all, nothing, or some of it survives. */
GByteArray *crash_replay_machine(CrashReplay *replay, GRand *rand);
