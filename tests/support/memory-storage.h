/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Storage over a byte buffer, with faults: reads that fail, come in pieces, or stop until
 * the test lets them go on. */
#pragma once

#include "storage/storage.h"

/* Makes a storage of a copy of @bytes; @path is how messages name it. */
QimgStorage *memory_storage_new(const void *bytes, size_t n_bytes, const char *path);

/* Lets the reads number @first to @first + @n_fails - 1 (0 is the next one) of @purpose
 * fail with @errnum (positive). One rule for each purpose. */
void memory_storage_fail(QimgStorage *storage, QimgIoPurpose purpose, unsigned first,
                         unsigned n_fails, int errnum);

/* Gives at most @n_bytes for each pread from now on; 0: no limit. */
void memory_storage_limit(QimgStorage *storage, size_t n_bytes);

/* Stops all reads of @purpose until memory_storage_release. */
void memory_storage_block(QimgStorage *storage, QimgIoPurpose purpose);

/* Waits until @n_readers reads stand still at a blocked purpose. */
void memory_storage_wait_blocked(QimgStorage *storage, unsigned n_readers);

/* Lets all stopped reads, and those to come, go on. */
void memory_storage_release(QimgStorage *storage);
