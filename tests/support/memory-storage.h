/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Storage over bytes in memory, with faults: calls that fail, come in pieces, or stop
 * until the test releases them. Read-only storages have exactly the given bytes; writable
 * ones grow, and only pages with content need memory. Any thread may call any
 * function. */
#pragma once

#include <glib.h>

#include "storage/storage.h"

/* Makes a storage of a copy of @bytes; @path is its name in messages. */
QimgStorage *memory_storage_new(const void *bytes, size_t n_bytes, const char *path);

/* Makes a writable one. */
QimgStorage *memory_storage_new_writable(const void *bytes, size_t n_bytes,
                                         const char *path);

/* Makes the file @n_bytes long, like another program that ignores locks; a read-only one
 * can only shrink. */
void memory_storage_cut(QimgStorage *storage, size_t n_bytes);

/* ---- writable storages only ---- */

/* From now on, writes and allocations that would exceed @n_bytes in pages of 4 KiB fail
 * with ENOSPC, or write only the part with room. Present bytes count; punched pages are
 * freed; a length without pages is free. */
void memory_storage_set_capacity(QimgStorage *storage, uint64_t n_bytes);

/* Bytes in pages. */
uint64_t memory_storage_used(QimgStorage *storage);

/* Copies the bytes at [@file_offset, + @n_bytes), with zeros past the end. */
void memory_storage_copy(QimgStorage *storage, uint64_t file_offset, void *buffer,
                         size_t n_bytes);

/* A copy of the whole; free with g_byte_array_unref. */
GByteArray *memory_storage_copy_all(QimgStorage *storage);

/* ---- faults ---- */

typedef enum {
    MEMORY_READ = 1 << 0,
    MEMORY_WRITE = 1 << 1,
    MEMORY_SYNC = 1 << 2,
    MEMORY_PUNCH = 1 << 3,
    MEMORY_ALLOCATE = 1 << 4,
    MEMORY_SET_SIZE = 1 << 5,
    MEMORY_CHANGES = MEMORY_WRITE | MEMORY_PUNCH | MEMORY_ALLOCATE | MEMORY_SET_SIZE,
    MEMORY_ANY_CALL = (1 << 6) - 1,
} MemoryCalls;

#define MEMORY_ANY_PURPOSE QIMG_N_IO_PURPOSES

/* Calls of the kinds in @calls, counted from 0 when the rule is set; calls without a
 * purpose (sync, allocate, set_size) match only rules of MEMORY_ANY_PURPOSE. */
typedef struct {
    MemoryCalls calls;
    QimgIoPurpose purpose; /* or MEMORY_ANY_PURPOSE */
    uint64_t n_until;      /* number of unaffected calls */
    uint64_t n_fails;      /* number of affected calls after them; UINT64_MAX: all */
    int errnum;            /* positive; 0: no failure, the call is only cut short */
    size_t n_bytes_before; /* of a write: this part is written first (and reported,
                              without error) */
} MemoryFault;

/* Adds a rule; of several matching rules the oldest decides, and all count the call. */
void memory_storage_add_fault(QimgStorage *storage, const MemoryFault *fault);

/* Forgets all rules. */
void memory_storage_clear_faults(QimgStorage *storage);

/* The number of calls of the kinds @calls. */
uint64_t memory_storage_n_calls(QimgStorage *storage, MemoryCalls calls);

/* Makes the reads number @first to @first + @n_fails - 1 (0 is the next one) of @purpose
 * fail with @errnum (positive). One rule per purpose. */
void memory_storage_fail(QimgStorage *storage, QimgIoPurpose purpose, unsigned first,
                         unsigned n_fails, int errnum);

/* From now on, each pread returns at most @n_bytes; 0: no limit. */
void memory_storage_limit(QimgStorage *storage, size_t n_bytes);

/* The same for each pwritev. */
void memory_storage_limit_writes(QimgStorage *storage, size_t n_bytes);

/* Stops all reads of @purpose until memory_storage_release. */
void memory_storage_block(QimgStorage *storage, QimgIoPurpose purpose);

/* Stops all calls of the kinds @calls with @purpose (MEMORY_ANY_PURPOSE: with any or
 * none) until memory_storage_release. One rule at a time. */
void memory_storage_block_calls(QimgStorage *storage, MemoryCalls calls,
                                QimgIoPurpose purpose);

/* Waits until @n_calls calls are blocked. */
void memory_storage_wait_blocked(QimgStorage *storage, unsigned n_calls);

/* Releases all stopped calls, and stops no more. */
void memory_storage_release(QimgStorage *storage);
