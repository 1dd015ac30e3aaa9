/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bytes of a host file: positional reads behind a small vtable, so that tests can inject
 * faults and images in memory, and other storage can come later.
 *
 * I1  Reads never change the storage, nor any state that another reader can see.
 * I2  Bytes past the end read as zeros (spec: qcow2 section 1, "End of file"). */
#pragma once

#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/lock.h"
#include "base/types.h"

/* What an I/O is for: counters, probes and fault rules share it. */
typedef enum {
    QIMG_IO_HEADER,
    QIMG_IO_L1,
    QIMG_IO_L2,
    QIMG_IO_SNAPSHOT,
    QIMG_IO_DATA,
    QIMG_IO_COMPRESSED,
    QIMG_N_IO_PURPOSES,
} QimgIoPurpose;

/* The purposes' names in stats, in their order. */
extern const char *const qimg_io_purpose_names[QIMG_N_IO_PURPOSES];

typedef struct QimgStorage QimgStorage;

typedef struct QimgStorageOps {
    /* Reads up to @n_bytes; returns how many (0 only at the end) or -errno. @purpose is
     * for storages that inject faults or record; it does not change what is read. */
    ssize_t (*pread)(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                     void *buffer, size_t n_bytes);
    /* The present length of the file. */
    QimgErrno (*get_size)(QimgStorage *storage, uint64_t *size_bytes_out);
    /* Whether @file_offset (below the size) lies in data or in a hole, and where that
     * ends. May be NULL: all is data. */
    QimgErrno (*find_extent)(QimgStorage *storage, uint64_t file_offset,
                             bool *is_data_out, uint64_t *end_out);
    void (*close)(QimgStorage *storage);
} QimgStorageOps;

/* The common head of every storage. */
struct QimgStorage {
    const QimgStorageOps *ops; /* const after open */
    char *path;                /* const after open: how messages name it */
    struct stat status;        /* const after open: as it was then */
    QimgMutex extent_lock;     /* rank QIMG_RANK_STORAGE */
    /* [start, end) was found to be data without a hole: a file system without extents
     * (tmpfs) goes through all pages to tell that. */
    uint64_t data_start QIMG_GUARDED_BY(extent_lock);
    uint64_t data_end QIMG_GUARDED_BY(extent_lock);
    /* Both relaxed, counters only. */
    _Atomic uint64_t n_reads[QIMG_N_IO_PURPOSES];
    _Atomic uint64_t bytes_read[QIMG_N_IO_PURPOSES];
};

/* Prepares the common head; @path is copied. The status is the caller's to fill in. */
void qimg_storage_init(QimgStorage *storage, const QimgStorageOps *ops, const char *path);

/* Reads exactly @n_bytes at @host_offset, with zeros for what lies past the end.
 * Threads: any; no lock may be held. Errors: those of pread; -EINVAL past 2^63. */
QimgErrno qimg_storage_read(QimgStorage *storage, QimgIoPurpose purpose,
                            QimgHostOffset host_offset, void *buffer, size_t n_bytes)
    QIMG_MUST_CHECK;

/* The present length in bytes. Threads: any. */
QimgErrno qimg_storage_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
    QIMG_MUST_CHECK;

/* Whether the byte at @host_offset is data or in a hole, and where that ends (past the
 * end of the file: a hole without end, UINT64_MAX). Threads: any; no lock may be held. */
QimgErrno qimg_storage_find_extent(QimgStorage *storage, QimgHostOffset host_offset,
                                   bool *is_data_out, uint64_t *end_out) QIMG_MUST_CHECK;

/* Whether the file occupied less space than its length when it was opened. */
bool qimg_storage_is_sparse(const QimgStorage *storage);

/* Closes and frees; accepts NULL. */
void qimg_storage_close(QimgStorage *storage);
