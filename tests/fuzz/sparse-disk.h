/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A writable file in memory: only written pages exist, its length is limited, and it
 * outlives the storages opened on it. For one thread. */
#pragma once

#include "storage/storage.h"

typedef struct SparseDisk SparseDisk;

/* A file with a copy of @bytes that cannot grow past @max_bytes: -ENOSPC. */
SparseDisk *sparse_disk_new(const void *bytes, size_t n_bytes, uint64_t max_bytes);

/* Opens it; close the storage before sparse_disk_free. Without @is_writable it has no
 * writing operations. */
QimgStorage *sparse_disk_open(SparseDisk *disk, bool is_writable);

/* Accepts NULL. */
void sparse_disk_free(SparseDisk *disk);
