/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes of a host file: positional reads and writes behind a small vtable, so that tests
 * can inject faults, record what is written and keep images in memory, and other storage
 * can come later.
 *
 * I1  Reads never change the storage, nor any state that another reader can see.
 * I2  Bytes past the end read as zeros (spec: qcow2 section 1, "End of file"). Bytes that
 *     the file had and has no more, since another program has cut it, are -EIO.
 * I3  A sync that fails once fails for ever: the kernel has dropped what it could not
 *     write, and no later success may hide that. */
#pragma once

#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/lock.h"
#include "base/task.h"
#include "base/types.h"

/* What an I/O is for: counters, probes and fault rules share it. */
typedef enum {
    QIMG_IO_HEADER,
    QIMG_IO_L1,
    QIMG_IO_L2,
    QIMG_IO_REFCOUNT_TABLE,
    QIMG_IO_REFCOUNT,
    QIMG_IO_RESERVE, /* clusters that are prepared for use, or given back */
    QIMG_IO_SNAPSHOT,
    QIMG_IO_BITMAP,
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
    /* The present status. May be NULL: it is as it was at open. */
    QimgErrno (*get_status)(QimgStorage *storage, struct stat *out);
    /* Whether another program may have changed the content since the storage was opened.
     * May be NULL: nobody does. Not asked of storages that can be written to. */
    bool (*has_changed)(QimgStorage *storage);
    /* Writing; NULL in storages that cannot. All may be called by many threads at once.
     * Writes up to the sum of the @n_parts parts; returns how much (> 0) or -errno. What
     * a call has returned is seen by every later read, of another process, too. */
    ssize_t (*pwritev)(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                       const struct iovec *parts, int n_parts);
    /* Returns when all that was written before, and the length, is on stable storage. */
    QimgErrno (*sync)(QimgStorage *storage);
    /* Makes a range below the file's end zeros, its space given back. -EOPNOTSUPP where
     * that cannot be had. */
    QimgErrno (*punch)(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                       uint64_t n_bytes);
    /* Makes sure that later writes to the range find room; changes neither content nor
     * length. -EOPNOTSUPP where that cannot be had. */
    QimgErrno (*allocate)(QimgStorage *storage, uint64_t file_offset, uint64_t n_bytes);
    /* Sets the length; what is added reads as zeros. */
    QimgErrno (*set_size)(QimgStorage *storage, uint64_t size_bytes);
    /* The descriptor of the file, which stays the storage's. NULL: there is none. */
    int (*get_fd)(const QimgStorage *storage);
    /* How much the file can still grow. NULL or an error: nobody knows. */
    QimgErrno (*get_free)(QimgStorage *storage, uint64_t *free_bytes_out);
    void (*close)(QimgStorage *storage);
} QimgStorageOps;

/* The common head of every storage. */
struct QimgStorage {
    const QimgStorageOps *ops; /* const after open */
    char *path;                /* const after open: how messages name it */
    struct stat status;        /* const after open: as it was then */
    /* Atomic: how long the file is known to be. As at open; own writes and set_size move
     * it, and where there are none, a growth that get_size has seen. */
    _Atomic uint64_t end_bytes;
    atomic_flag is_cut_told;   /* the log knows that the file was cut */
    uint64_t punch_unit_bytes; /* const after open: a power of two; what punch takes
                                  begins and ends at multiples. 0: anywhere */
    QimgMutex extent_lock;     /* rank QIMG_RANK_STORAGE */
    /* [start, end) was found to be data without a hole: a file system without extents
     * (tmpfs) goes through all pages to tell that. */
    uint64_t data_start; /* guarded by extent_lock */
    uint64_t data_end;   /* guarded by extent_lock */
    /* Whose turn a sync is: one runs at a time, and who comes meanwhile shares the next.
     */
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

/* Prepares the common head of a storage of @size_bytes; @path is copied. The status is
 * the caller's to fill in. */
void qimg_storage_init(QimgStorage *storage, const QimgStorageOps *ops, const char *path,
                       uint64_t size_bytes);

/* Reads exactly @n_bytes at @host_offset, with zeros for what lies past the end.
 * Threads: any; a lock of rank ALLOC may be held for metadata, none for data. Errors:
 * those of pread; -EIO where the file has been cut (I2); -EINVAL past 2^63. */
QimgErrno qimg_storage_read(QimgStorage *storage, QimgIoPurpose purpose,
                            QimgHostOffset host_offset, void *buffer, size_t n_bytes)
    QIMG_MUST_CHECK;

/* The present length in bytes. Threads: any. Errors: -EIO where the file has been cut. */
QimgErrno qimg_storage_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
    QIMG_MUST_CHECK;

/* The present status of the file (as far as it can be told). Threads: any. */
void qimg_storage_get_status(QimgStorage *storage, struct stat *out);

/* Whether the file, which is open for reading alone, was changed by another program since
 * it was opened: its content may be of two moments then. Where it is open for writing,
 * too, changes are ours. Costs a system call. Threads: any. */
bool qimg_storage_has_changed(QimgStorage *storage);

/* Whether the byte at @host_offset is data or in a hole, and where that ends (past the
 * end of the file: a hole without end, UINT64_MAX). Threads: any; a lock of rank ALLOC
 * may be held, for metadata. Errors: -EIO where the file has been cut. */
QimgErrno qimg_storage_find_extent(QimgStorage *storage, QimgHostOffset host_offset,
                                   bool *is_data_out, uint64_t *end_out) QIMG_MUST_CHECK;

/* Whether the storage can be written to. */
bool qimg_storage_is_writable(const QimgStorage *storage);

/* Writes all the parts, one behind the other, at @host_offset. A failure may leave any
 * part of the range written. @parts is used up.
 * Threads: any; locks as qimg_storage_read. Errors: -EIO, -ENOSPC, -EDQUOT and others of
 * pwritev; -EINVAL past 2^63; -EROFS. */
QimgErrno qimg_storage_writev(QimgStorage *storage, QimgIoPurpose purpose,
                              QimgHostOffset host_offset, struct iovec *parts,
                              int n_parts) QIMG_MUST_CHECK;

/* As qimg_storage_writev of one part. */
QimgErrno qimg_storage_write(QimgStorage *storage, QimgIoPurpose purpose,
                             QimgHostOffset host_offset, const void *buffer,
                             size_t n_bytes) QIMG_MUST_CHECK;

/* Returns when everything written before the call is on stable storage. Callers that come
 * while one waits for the disk share the next wait. After a failure every call fails.
 * Threads: any; a lock of rank ALLOC may be held. */
QimgErrno qimg_storage_sync(QimgStorage *storage) QIMG_MUST_CHECK;

/* Makes the range zeros: punched where it lies below the file's end and that is possible,
 * written else. The file's length does not change, and what lies past it is zeros anyway.
 * Threads and errors: as qimg_storage_writev. */
QimgErrno qimg_storage_zero(QimgStorage *storage, QimgIoPurpose purpose,
                            QimgHostOffset host_offset, uint64_t n_bytes) QIMG_MUST_CHECK;

/* Gives the space of the range back where that is possible; its content is undefined
 * afterwards. */
void qimg_storage_discard(QimgStorage *storage, QimgIoPurpose purpose,
                          QimgHostOffset host_offset, uint64_t n_bytes);

/* Makes sure that writes to the range find room, where that can be had. Errors: -ENOSPC
 * and the like; none where it cannot be had. */
QimgErrno qimg_storage_allocate(QimgStorage *storage, QimgHostOffset host_offset,
                                uint64_t n_bytes) QIMG_MUST_CHECK;

/* Gives a range that reads as zeros space of its own, so that no later write to it meets
 * a full disk: reserves it where the file system can, else, or where @is_written, writes
 * zeros. @task may be NULL. Threads and errors: as qimg_storage_writev, and -ECANCELED.
 */
QimgErrno qimg_storage_preallocate(QimgStorage *storage, QimgHostOffset host_offset,
                                   uint64_t n_bytes, bool is_written,
                                   const QimgTask *task) QIMG_MUST_CHECK;

/* Sets the length in bytes; what is added reads as zeros. Threads: any; the callers agree
 * among themselves. */
QimgErrno qimg_storage_set_size(QimgStorage *storage, uint64_t size_bytes)
    QIMG_MUST_CHECK;

/* Whether the file occupied less space than its length when it was opened. */
bool qimg_storage_is_sparse(const QimgStorage *storage);

/* How many bytes are free where the file lies: 0 where it cannot grow or nobody knows.
 * Threads: any; no lock may be held. */
uint64_t qimg_storage_get_free_bytes(QimgStorage *storage);

/* Closes and frees; accepts NULL. */
void qimg_storage_close(QimgStorage *storage);
