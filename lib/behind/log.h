/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table words pending for an image file: a ring of records in memory that outlives
 * the process adding them (behind/keeper.h).
 *
 * L1  A record is valid from when n_appended passes it until n_published does. Both only
 *     grow, each in one store, after the work that it stands for: at whatever instruction
 *     a process dies, [n_published, n_appended) is complete, and rewriting records that
 *     were already written to the file changes nothing.
 *
 * L2  Of several records for one place the last one counts: they are written in order. */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

#define BEHIND_MAX_RECORD_WORDS 2u

/* The words of one entry. */
typedef struct {
    uint64_t host_offset; /* first: a key of hash tables. In the image file, bytes */
    uint64_t n_words;
    uint64_t words[BEHIND_MAX_RECORD_WORDS]; /* in file order */
} BehindRecord;

typedef struct BehindLog {
    uint64_t n_records; /* const: the capacity, an even number */
    _Alignas(64) _Atomic uint64_t n_appended;
    _Alignas(64) _Atomic uint64_t n_published;
    _Alignas(64) BehindRecord records[];
} BehindLog;

/* Bytes of a log with room for @n_records. */
size_t behind_log_bytes(uint64_t n_records);

/* Maps a new log in the memory file @fd, with room for @n_records; NULL with errno. Unmap
 * with behind_log_unmap. */
BehindLog *behind_log_map_new(int fd, uint64_t n_records);

/* Maps another process's log for reading; NULL if it cannot be one. */
const BehindLog *behind_log_map(int fd);

void behind_log_unmap(const BehindLog *log);

/* The place of record number @number. */
static inline BehindRecord *
behind_log_at(BehindLog *log, uint64_t number)
{
    return &log->records[number % log->n_records];
}

/* Writes @n_bytes at @host_offset of the image file. */
typedef QimgErrno (*BehindWrite)(void *user, uint64_t host_offset, const void *bytes,
                                 size_t n_bytes);

/* Writes the records [@from, @to), adjacent ones in one call; never splits an entry.
 * Errors: of @write, which ends it. */
QimgErrno behind_log_write(const BehindLog *log, uint64_t from, uint64_t to,
                           BehindWrite write, void *user) QIMG_MUST_CHECK;
