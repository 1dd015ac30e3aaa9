/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Table entries that are written behind: every user of the image in this process sees
 * them as soon as they are added, and they are written to the file once the data that
 * they refer to are on stable storage: many of them after one sync.
 *
 * B1  An entry is written to the file only after everything written to the storages
 *     before it was added is durable.
 *
 * B2  While an entry is pending, newer states of it queue behind it: nothing else writes
 *     to its place in the file.
 *
 * B3  Pending entries survive the process (behind/keeper.h). Without a keeper, nothing is
 *     added any more.
 *
 * B4  The file has room for pending entries, on host file systems that overwrite in
 *     place. */
#pragma once

#include "behind/keeper.h"
#include "storage/storage.h"

typedef struct QimgBehind QimgBehind;

/* For the layer in @file, which the caller keeps. @keeper must outlive it; NULL: never
 * writes behind. */
QimgBehind *behind_new(QimgKeeper *keeper, QimgStorage *file);

/* From now on entries may be pending, unless there is no keeper. Call before the first
 * entry changes. @data_file: the external one, or NULL. */
void behind_start(QimgBehind *behind, QimgStorage *data_file);

/* Whether behind_start has succeeded; never changes back. Accepts NULL. Any thread. */
bool behind_is_started(const QimgBehind *behind);

/* Whether entries may be added; else the caller must call behind_settle and sync the data
 * before it writes to the file. Any thread. */
bool behind_is_kept(const QimgBehind *behind);

/* Whether any of the entries of @entry_words words in [@host_offset, + @n_words words) is
 * pending. Any thread; for the only thread that changes them, the answer stays valid.
 * Accepts NULL. */
bool behind_covers(QimgBehind *behind, uint64_t host_offset, uint64_t n_words,
                   unsigned entry_words);

/* Adds @n_words @words (in file order) of entries of @entry_words words, replacing
 * @old_words, all or none. Call in the only thread that changes them. Threads: any; a
 * lock of rank ALLOC may be held; waits while too many entries are pending. Errors: of
 * the storage, also for lack of room in the file. */
QimgErrno behind_add(QimgBehind *behind, uint64_t host_offset, const uint64_t *words,
                     const uint64_t *old_words, uint64_t n_words, unsigned entry_words)
    QIMG_MUST_CHECK;

/* Writes all entries pending at the call to the file. They are not yet durable then.
 * *@has_synced_out (may be NULL): whether both storages were synced, by a sync begun
 * after the call. Threads: as behind_add. Errors: of the storages; the entries stay
 * pending. Accepts NULL. */
QimgErrno behind_settle(QimgBehind *behind, bool *has_synced_out) QIMG_MUST_CHECK;

/* As qimg_storage_read on the file, overlaid with pending entries. @n_bytes and the
 * offset are whole words, at most TABLE_SLICE_BYTES. @behind may be NULL. */
QimgErrno behind_read(QimgBehind *behind, QimgStorage *file, QimgIoPurpose purpose,
                      QimgHostOffset host_offset, void *bytes, size_t n_bytes)
    QIMG_MUST_CHECK;

/* The log of pending entries; NULL: none yet. For tests. */
const struct BehindLog *behind_get_log(const QimgBehind *behind);

/* Forgets pending entries, which could not be written. Accepts NULL. */
void behind_free(QimgBehind *behind);
