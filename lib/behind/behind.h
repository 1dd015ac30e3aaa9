/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Entries of tables that are written behind: they are the image's for all who use it here
 * as soon as they are added, and get to the file once the data that they refer to is on
 * stable storage: many of them after one sync.
 *
 * B1  An entry is written to the file only after everything that was written to the
 *     storages before it was added is durable.
 * B2  While an entry waits, its newer states wait behind it: the place in the file is
 *     written by nobody else.
 * B3  What waits is not lost with the process (behind/keeper.h). Where nobody keeps it,
 *     nothing is added any more.
 * B4  There is room in the file for what waits, where the host's file system overwrites
 *     in place. */
#pragma once

#include "behind/keeper.h"
#include "storage/storage.h"

typedef struct QimgBehind QimgBehind;

/* For the layer in @file, which stays the caller's. @keeper: outlives it; NULL: nothing
 * is ever written behind. */
QimgBehind *behind_new(QimgKeeper *keeper, QimgStorage *file);

/* Lets entries wait from now on, unless there is nobody to keep them. Before the first
 * entry changes. @data_file: the external one, or NULL. */
void behind_start(QimgBehind *behind, QimgStorage *data_file);

/* Whether behind_start has succeeded: stays so. Accepts NULL. Any thread. */
bool behind_is_started(const QimgBehind *behind);

/* Whether entries may be added; else behind_settle must come before the file is written
 * to, and a sync of the data. Any thread. */
bool behind_is_kept(const QimgBehind *behind);

/* Whether any of the entries of @entry_words words in [@host_offset, + @n_words words)
 * waits. Any thread; the answer stays right for the only one that changes them. Accepts
 * NULL. */
bool behind_covers(QimgBehind *behind, uint64_t host_offset, uint64_t n_words,
                   unsigned entry_words);

/* Adds @n_words @words (as they lie in the file) of entries of @entry_words words, in the
 * place of @old_words, all or none. For the only thread that changes them.
 * Threads: any; a lock of rank ALLOC may be held; waits where too many entries wait.
 * Errors: of the storage, for want of room in the file, too. */
QimgErrno behind_add(QimgBehind *behind, uint64_t host_offset, const uint64_t *words,
                     const uint64_t *old_words, uint64_t n_words, unsigned entry_words)
    QIMG_MUST_CHECK;

/* Writes all that waited when it was called to the file. What is in the file then is not
 * yet durable. *@has_synced_out (may be NULL): both storages were synced, in a sync that
 * began after the call. Threads: as behind_add. Errors: of the storages; what waited
 * still waits. Accepts NULL. */
QimgErrno behind_settle(QimgBehind *behind, bool *has_synced_out) QIMG_MUST_CHECK;

/* As qimg_storage_read of the file, with what waits in its place. @n_bytes, and the
 * place: whole words, at most TABLE_SLICE_BYTES. @behind may be NULL. */
QimgErrno behind_read(QimgBehind *behind, QimgStorage *file, QimgIoPurpose purpose,
                      QimgHostOffset host_offset, void *bytes, size_t n_bytes)
    QIMG_MUST_CHECK;

/* The log in which entries wait, NULL: nothing waits yet. For tests. */
const struct BehindLog *behind_get_log(const QimgBehind *behind);

/* Forgets what still waits, since it could not be written. Accepts NULL. */
void behind_free(QimgBehind *behind);
