/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes of a host file: positional reads and writes behind a small vtable, so that tests
 * can inject faults, record writes and keep images in memory, and other kinds of storage
 * can be added.
 *
 * I1  Reads never change the storage, nor any state visible to another reader.
 *
 * I2  Bytes past the end read as zeros (spec: qcow2 section 1, "End of file"). Bytes that
 *     the file has lost, since another program cut it, are -EIO.
 *
 * I3  After one failed sync all syncs fail: the kernel has dropped the failed
 *     writes, and no later success may hide that. */
#pragma once

#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/lock.h"
#include "base/task.h"
#include "base/types.h"

/* The purpose of an I/O, for counters, probes and fault rules. */
typedef enum {
    QIMG_IO_HEADER,
    QIMG_IO_L1,
    QIMG_IO_L2,
    QIMG_IO_REFCOUNT_TABLE,
    QIMG_IO_REFCOUNT,
    QIMG_IO_RESERVE, /* preparing clusters for use, or freeing them */
    QIMG_IO_SNAPSHOT,
    QIMG_IO_BITMAP,
    QIMG_IO_DATA,
    QIMG_IO_COMPRESSED,
    QIMG_N_IO_PURPOSES,
} QimgIoPurpose;

/* The purposes' names in statistics, in their order. */
extern const char *const qimg_io_purpose_names[QIMG_N_IO_PURPOSES];

typedef struct QimgStorage QimgStorage;

typedef struct QimgStorageOps {
    /* Reads up to @n_bytes; returns the number (0 only at the end) or -errno. @purpose is
     * for storages that inject faults or record; it does not affect the bytes. */
    ssize_t (*pread)(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                     void *buffer, size_t n_bytes);
    /* Begins to fetch bytes that a pread will ask for soon, and does not wait for them.
     * May be NULL. */
    void (*will_read)(QimgStorage *storage, uint64_t file_offset, size_t n_bytes);
    /* The present length of the file. */
    QimgErrno (*get_size)(QimgStorage *storage, uint64_t *size_bytes_out);
    /* Whether @file_offset (below the size) is in data or in a hole, and the end of that.
     * May be NULL: all is data. */
    QimgErrno (*find_extent)(QimgStorage *storage, uint64_t file_offset,
                             bool *is_data_out, uint64_t *end_out);
    /* The present status. May be NULL: as of the open. */
    QimgErrno (*get_status)(QimgStorage *storage, struct stat *out);
    /* Whether another program may have changed the content since the open. May be NULL:
     * never. Not called for writable storages. */
    bool (*has_changed)(QimgStorage *storage);
    /* Functions for writing; NULL in read-only storages. Many threads may call all of
     * them at once. pwritev writes up to the sum of the @n_parts parts; returns the
     * number of bytes (> 0) or -errno. Every later read sees the written bytes, also in
     * another process. */
    ssize_t (*pwritev)(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                       const struct iovec *parts, int n_parts);
    /* Returns when all earlier writes, and the length, are on stable storage. */
    QimgErrno (*sync)(QimgStorage *storage);
    /* Zeros a range below the file's end and frees its space. -EOPNOTSUPP if
     * unsupported. */
    QimgErrno (*punch)(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                       uint64_t n_bytes);
    /* Reserves space for later writes to the range; changes neither content nor length.
     * -EOPNOTSUPP if unsupported. */
    QimgErrno (*allocate)(QimgStorage *storage, uint64_t file_offset, uint64_t n_bytes);
    /* Sets the length; added bytes read as zeros. */
    QimgErrno (*set_size)(QimgStorage *storage, uint64_t size_bytes);
    /* The file's descriptor, which the storage keeps. NULL: there is none. */
    int (*get_fd)(const QimgStorage *storage);
    /* How far the file can still grow. NULL or an error: unknown. */
    QimgErrno (*get_free)(QimgStorage *storage, uint64_t *free_bytes_out);
    void (*close)(QimgStorage *storage);
} QimgStorageOps;

/* The common head of every storage. */
struct QimgStorage {
    const QimgStorageOps *ops; /* const after open */
    char *path;                /* const after open: the file's name in messages */
    struct stat status;        /* const after open: as of the open */
    /* Atomic: the known length of the file. Set at open; moved by our own writes and
     * set_size, and in storages without those by a growth seen in get_size. */
    _Atomic uint64_t end_bytes;
    atomic_flag is_cut_told;   /* the cut was logged */
    uint64_t punch_unit_bytes; /* const after open: a power of two; alignment of punch. 0:
                                  none */
    QimgMutex extent_lock;     /* rank QIMG_RANK_STORAGE */
    /* [start, end) was found to be data without a hole. Remembered because a file system
     * without extents (tmpfs) visits all pages for the answer. */
    uint64_t data_start; /* guarded by extent_lock */
    uint64_t data_end;   /* guarded by extent_lock */
    /* The turns of syncs: one runs at a time, and callers arriving meanwhile share the
     * next. */
    QimgMutex sync_lock; /* rank QIMG_RANK_STORAGE */
    QimgCond sync_ended;
    uint64_t n_syncs_begun; /* guarded by sync_lock */
    uint64_t n_syncs_ended; /* guarded by sync_lock */
    _Atomic int sync_error; /* atomic: -errno of the first sync that failed (I3) */
    /* Both relaxed, counters only. */
    _Atomic uint64_t n_reads[QIMG_N_IO_PURPOSES];
    _Atomic uint64_t bytes_read[QIMG_N_IO_PURPOSES];
    _Atomic uint64_t n_writes[QIMG_N_IO_PURPOSES];
    _Atomic uint64_t bytes_written[QIMG_N_IO_PURPOSES];
    _Atomic uint64_t n_syncs;
};

/* Initializes the common head of a storage of @size_bytes; @path is copied. The caller
 * fills in the status. */
void qimg_storage_init(QimgStorage *storage, const QimgStorageOps *ops, const char *path,
                       uint64_t size_bytes);

/* Reads exactly @n_bytes at @host_offset; bytes past the end are zeros. Threads: any; a
 * lock of rank ALLOC may be held for metadata, none for data. Errors: those of pread;
 * -EIO if the file was cut (I2); -EINVAL past 2^63. */
QimgErrno qimg_storage_read(QimgStorage *storage, QimgIoPurpose purpose,
                            QimgHostOffset host_offset, void *buffer, size_t n_bytes)
    QIMG_MUST_CHECK;

/* Announces a read: of slow storage it begins now, beside others. Never waits for the
 * bytes and never fails. Threads: any; locks as qimg_storage_read. */
void qimg_storage_will_read(QimgStorage *storage, QimgHostOffset host_offset,
                            size_t n_bytes);

/* The present length in bytes. Threads: any. Errors: -EIO if the file was cut. */
QimgErrno qimg_storage_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
    QIMG_MUST_CHECK;

/* The present status of the file (as far as known). Threads: any. */
void qimg_storage_get_status(QimgStorage *storage, struct stat *out);

/* Whether another program has changed the file since the open; its content may then be of
 * two moments. False for a writable file, whose changes are ours. Costs a system call.
 * Threads: any. */
bool qimg_storage_has_changed(QimgStorage *storage);

/* Whether the byte at @host_offset is data or in a hole, and the end of that (past the
 * end of the file: a hole without end, UINT64_MAX). Threads: any; a lock of rank ALLOC
 * may be held, for metadata. Errors: -EIO if the file was cut. */
QimgErrno qimg_storage_find_extent(QimgStorage *storage, QimgHostOffset host_offset,
                                   bool *is_data_out, uint64_t *end_out) QIMG_MUST_CHECK;

/* Whether the storage can be written to. */
bool qimg_storage_is_writable(const QimgStorage *storage);

/* Writes all parts, one after the other, at @host_offset. A failure may leave any part of
 * the range written. @parts is consumed. Threads: any; locks as qimg_storage_read.
 * Errors: -EIO, -ENOSPC, -EDQUOT and others of pwritev; -EINVAL past 2^63; -EROFS. */
QimgErrno qimg_storage_writev(QimgStorage *storage, QimgIoPurpose purpose,
                              QimgHostOffset host_offset, struct iovec *parts,
                              int n_parts) QIMG_MUST_CHECK;

/* As qimg_storage_writev with one part. */
QimgErrno qimg_storage_write(QimgStorage *storage, QimgIoPurpose purpose,
                             QimgHostOffset host_offset, const void *buffer,
                             size_t n_bytes) QIMG_MUST_CHECK;

/* Returns when all earlier writes are on stable storage. Callers that arrive during a
 * sync share the next one. After a failure every call fails. Threads: any; a lock of rank
 * ALLOC may be held. */
QimgErrno qimg_storage_sync(QimgStorage *storage) QIMG_MUST_CHECK;

/* Zeros the range: punches the part below the file's end if possible, else writes zeros.
 * The file's length does not change, since bytes past it are zeros anyway. Threads and
 * errors: as qimg_storage_writev. */
QimgErrno qimg_storage_zero(QimgStorage *storage, QimgIoPurpose purpose,
                            QimgHostOffset host_offset, uint64_t n_bytes) QIMG_MUST_CHECK;

/* Frees the range's space if possible; its content is undefined afterwards. */
void qimg_storage_discard(QimgStorage *storage, QimgIoPurpose purpose,
                          QimgHostOffset host_offset, uint64_t n_bytes);

/* Reserves space for writes to the range, if supported. Errors: -ENOSPC and the like;
 * none if unsupported. */
QimgErrno qimg_storage_allocate(QimgStorage *storage, QimgHostOffset host_offset,
                                uint64_t n_bytes) QIMG_MUST_CHECK;

/* Gives a range that reads as zeros its own space, so that no later write to it meets a
 * full disk: reserves it if the file system can; else, or with @is_written, writes zeros.
 * @task may be NULL. Threads and errors: as qimg_storage_writev, and -ECANCELED. */
QimgErrno qimg_storage_preallocate(QimgStorage *storage, QimgHostOffset host_offset,
                                   uint64_t n_bytes, bool is_written,
                                   const QimgTask *task) QIMG_MUST_CHECK;

/* Sets the length in bytes; added bytes read as zeros. Threads: any; the callers
 * coordinate among themselves. */
QimgErrno qimg_storage_set_size(QimgStorage *storage, uint64_t size_bytes)
    QIMG_MUST_CHECK;

/* Whether the file had less allocated space than its length at the open. */
bool qimg_storage_is_sparse(const QimgStorage *storage);

/* Free bytes on the file's file system: 0 if the file cannot grow or the number is
 * unknown. Threads: any; no lock may be held. */
uint64_t qimg_storage_get_free_bytes(QimgStorage *storage);

/* Closes and frees; accepts NULL. */
void qimg_storage_close(QimgStorage *storage);
