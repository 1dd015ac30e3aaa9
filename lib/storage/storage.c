/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Common to all storages: whole-length reads and writes, shared syncs, counters. */
#define G_LOG_DOMAIN "qimg"

#include "storage/storage.h"

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/lock.h"
#include "base/trace.h"
#include "base/zeros.h"

/* How far beyond a place to ask for its extent first. */
#define EXTENT_WINDOW_BYTES (256 * QIMG_MIB)

/* Zeros written at once: MAX_ZERO_PARTS times the same buffer. */
#define ZEROS_BYTES    (64 * QIMG_KIB)
#define MAX_ZERO_PARTS 16u
/* Bytes preallocated at once, between two steps of the task. */
#define RESERVE_BYTES (1024 * QIMG_MIB)
#define FILL_BYTES    (4 * QIMG_MIB)

/* The limit of reads of the length that race with our own changes; each change takes a
 * system call. */
#define MAX_SIZE_LOOKS 8u

const char *const qimg_io_purpose_names[QIMG_N_IO_PURPOSES] = {
    [QIMG_IO_HEADER] = "header",
    [QIMG_IO_L1] = "l1",
    [QIMG_IO_L2] = "l2",
    [QIMG_IO_REFCOUNT_TABLE] = "refcount-table",
    [QIMG_IO_REFCOUNT] = "refcount",
    [QIMG_IO_RESERVE] = "reserve",
    [QIMG_IO_SNAPSHOT] = "snapshot",
    [QIMG_IO_BITMAP] = "bitmap",
    [QIMG_IO_DATA] = "data",
    [QIMG_IO_COMPRESSED] = "compressed",
};

void
qimg_storage_init(QimgStorage *storage, const QimgStorageOps *ops, const char *path,
                  uint64_t size_bytes)
{
    storage->ops = ops;
    storage->path = g_strdup(path);
    atomic_init(&storage->end_bytes, size_bytes);
    atomic_flag_clear(&storage->is_cut_told);
    qimg_mutex_init(&storage->extent_lock, QIMG_RANK_STORAGE);
    qimg_mutex_init(&storage->sync_lock, QIMG_RANK_STORAGE);
    qimg_cond_init(&storage->sync_ended);
}

static void
assert_may_do_io(QimgIoPurpose purpose)
{
    if (purpose == QIMG_IO_DATA || purpose == QIMG_IO_COMPRESSED)
        qimg_lock_assert_none_held();
    else
        qimg_lock_assert_metadata_io();
}

/* Acquire pairs with the release of every change of the end: the file always reaches at
 * least the known end. */
static uint64_t
known_end(QimgStorage *storage)
{
    return atomic_load_explicit(&storage->end_bytes, memory_order_acquire);
}

static void
raise_end(QimgStorage *storage, uint64_t end_bytes)
{
    uint64_t known = known_end(storage);

    while (known < end_bytes && !atomic_compare_exchange_weak_explicit(
                                    &storage->end_bytes, &known, end_bytes,
                                    memory_order_release, memory_order_acquire))
        ;
}

/* The answer for a byte at @file_offset that the file no longer has. */
static QimgErrno
refuse_cut(QimgStorage *storage, uint64_t file_offset)
{
    if (!atomic_flag_test_and_set(&storage->is_cut_told))
        g_warning("%s: was cut by another program: byte %" PRIu64
                  " is missing, where there were %" PRIu64
                  "; that reads as an I/O error (stop that program, and open it again)",
                  storage->path, file_offset, known_end(storage));
    return -EIO;
}

/* Whether the file, in which nothing was found at @file_offset, was cut there. Before the
 * read it was known to end at @end_before. */
static bool
is_cut_at(QimgStorage *storage, uint64_t file_offset, uint64_t end_before)
{
    return file_offset < end_before && file_offset < known_end(storage);
}

QimgErrno
qimg_storage_read(QimgStorage *storage, QimgIoPurpose purpose, QimgHostOffset host_offset,
                  void *buffer, size_t n_bytes)
{
    uint64_t end_before = known_end(storage);
    uint8_t *bytes = buffer;
    size_t done = 0;

    assert_may_do_io(purpose);
    if (!qimg_range_fits(host_offset.v, n_bytes, INT64_MAX))
        return -EINVAL;
    while (done < n_bytes) {
        ssize_t got = storage->ops->pread(storage, purpose, host_offset.v + done,
                                          bytes + done, n_bytes - done);

        if (got == -EINTR)
            continue;
        if (got < 0)
            return (QimgErrno)got;
        if (got == 0) {
            if (is_cut_at(storage, host_offset.v + done, end_before))
                return refuse_cut(storage, host_offset.v + done);
            memset(bytes + done, 0, n_bytes - done);
            break;
        }
        done += (size_t)got;
    }
    atomic_fetch_add_explicit(&storage->n_reads[purpose], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&storage->bytes_read[purpose], done, memory_order_relaxed);
    return 0;
}

bool
qimg_storage_is_writable(const QimgStorage *storage)
{
    return storage->ops->pwritev != NULL;
}

/* Removes the first @n_bytes from the parts; returns the number of parts left. */
static int
skip_parts(struct iovec **parts, int n_parts, size_t n_bytes)
{
    while (n_parts > 0 && n_bytes >= (*parts)->iov_len) {
        n_bytes -= (*parts)->iov_len;
        (*parts)++;
        n_parts--;
    }
    if (n_parts > 0) {
        (*parts)->iov_base = (uint8_t *)(*parts)->iov_base + n_bytes;
        (*parts)->iov_len -= n_bytes;
    }
    return n_parts;
}

QimgErrno
qimg_storage_writev(QimgStorage *storage, QimgIoPurpose purpose,
                    QimgHostOffset host_offset, struct iovec *parts, int n_parts)
{
    uint64_t n_bytes = 0, done = 0;

    assert_may_do_io(purpose);
    for (int i = 0; i < n_parts; i++)
        n_bytes += parts[i].iov_len;
    if (!storage->ops->pwritev)
        return -EROFS;
    if (!qimg_range_fits(host_offset.v, n_bytes, INT64_MAX))
        return -EINVAL;
    n_parts = skip_parts(&parts, n_parts, 0);
    while (n_parts > 0) {
        ssize_t put =
            storage->ops->pwritev(storage, purpose, host_offset.v + done, parts, n_parts);

        if (put == -EINTR)
            continue;
        if (put < 0)
            return (QimgErrno)put;
        if (put == 0) /* the end of a device */
            return -ENOSPC;
        done += (uint64_t)put;
        n_parts = skip_parts(&parts, n_parts, (size_t)put);
        raise_end(storage, host_offset.v + done);
    }
    atomic_fetch_add_explicit(&storage->n_writes[purpose], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&storage->bytes_written[purpose], done,
                              memory_order_relaxed);
    return 0;
}

QimgErrno
qimg_storage_write(QimgStorage *storage, QimgIoPurpose purpose,
                   QimgHostOffset host_offset, const void *buffer, size_t n_bytes)
{
    struct iovec part = {.iov_base = (void *)buffer, .iov_len = n_bytes};

    return qimg_storage_writev(storage, purpose, host_offset, &part, 1);
}

/* Waits for a sync that begins after this call, or becomes its runner: then returns true,
 * and the caller must sync and call end_sync. */
static bool
begin_sync(QimgStorage *storage)
{
    QIMG_LOCK_SCOPE(&storage->sync_lock);
    uint64_t wanted = storage->n_syncs_begun + 1;

    while (storage->n_syncs_ended < wanted) {
        if (storage->n_syncs_begun == storage->n_syncs_ended) {
            storage->n_syncs_begun++;
            return true;
        }
        qimg_cond_wait(&storage->sync_ended, &storage->sync_lock);
    }
    return false;
}

static void
end_sync(QimgStorage *storage)
{
    QIMG_LOCK_SCOPE(&storage->sync_lock);

    storage->n_syncs_ended++;
    qimg_cond_broadcast(&storage->sync_ended);
}

QimgErrno
qimg_storage_sync(QimgStorage *storage)
{
    QimgErrno none = 0;

    qimg_lock_assert_metadata_io();
    if (!storage->ops->sync)
        return 0;
    if (begin_sync(storage)) {
        QimgErrno err;

        QIMG_TRACE1(sync__begin, storage->path);
        err = storage->ops->sync(storage);
        QIMG_TRACE2(sync__end, storage->path, err);
        if (err) /* I3 */
            atomic_compare_exchange_strong(&storage->sync_error, &none, err);
        atomic_fetch_add_explicit(&storage->n_syncs, 1, memory_order_relaxed);
        end_sync(storage);
    }
    return atomic_load(&storage->sync_error);
}

/* Forgets the remembered data extent if [@start, @end), which is no longer data, touches
 * it. */
static void
forget_data(QimgStorage *storage, uint64_t start, uint64_t end)
{
    QIMG_LOCK_SCOPE(&storage->extent_lock);

    if (start < storage->data_end && end > storage->data_start)
        storage->data_start = storage->data_end = 0;
}

static QimgErrno
storage_write_zeros(QimgStorage *storage, QimgIoPurpose purpose, uint64_t offset,
                    uint64_t n_bytes)
{
    while (n_bytes > 0) {
        struct iovec parts[MAX_ZERO_PARTS];
        uint64_t done = 0;
        QimgErrno err;
        int n = 0;

        for (; n < (int)MAX_ZERO_PARTS && done < n_bytes; n++) {
            size_t part_bytes = qimg_min_u64(ZEROS_BYTES, n_bytes - done);

            parts[n] = (struct iovec){(void *)qimg_zeros, part_bytes};
            done += part_bytes;
        }
        err = qimg_storage_writev(storage, purpose, qimg_host(offset), parts, n);
        if (err)
            return err;
        offset += done;
        n_bytes -= done;
    }
    return 0;
}

/* The part of [@start, @end) that can be punched; empty if @end_out <= @start_out. */
static void
clip_to_punch_units(const QimgStorage *storage, uint64_t start, uint64_t end,
                    uint64_t *start_out, uint64_t *end_out)
{
    uint64_t unit_bytes = qimg_max_u64(storage->punch_unit_bytes, 1);

    *end_out = qimg_align_down(end, unit_bytes);
    if (!qimg_align_up(start, unit_bytes, start_out))
        *start_out = *end_out;
}

static QimgErrno
punch(QimgStorage *storage, QimgIoPurpose purpose, uint64_t start, uint64_t end)
{
    QimgErrno err = storage->ops->punch
                        ? storage->ops->punch(storage, purpose, start, end - start)
                        : -EOPNOTSUPP;

    if (!err)
        forget_data(storage, start, end);
    return err;
}

QimgErrno
qimg_storage_zero(QimgStorage *storage, QimgIoPurpose purpose, QimgHostOffset host_offset,
                  uint64_t n_bytes)
{
    uint64_t size_bytes = 0;
    uint64_t start, end, punch_start, punch_end;
    QimgErrno err;

    assert_may_do_io(purpose);
    err = qimg_storage_get_size(storage, &size_bytes);
    if (err)
        return err;
    if (host_offset.v >= size_bytes)
        return 0;
    start = host_offset.v;
    end = start + qimg_min_u64(n_bytes, size_bytes - start);
    clip_to_punch_units(storage, start, end, &punch_start, &punch_end);
    if (punch_start >= punch_end)
        return storage_write_zeros(storage, purpose, start, end - start);
    err = punch(storage, purpose, punch_start, punch_end);
    if (err == -EOPNOTSUPP)
        return storage_write_zeros(storage, purpose, start, end - start);
    if (!err)
        err = storage_write_zeros(storage, purpose, start, punch_start - start);
    if (!err)
        err = storage_write_zeros(storage, purpose, punch_end, end - punch_end);
    return err;
}

void
qimg_storage_discard(QimgStorage *storage, QimgIoPurpose purpose,
                     QimgHostOffset host_offset, uint64_t n_bytes)
{
    uint64_t start, end;

    assert_may_do_io(purpose);
    clip_to_punch_units(storage, host_offset.v, host_offset.v + n_bytes, &start, &end);
    if (start < end)
        (void)punch(storage, purpose, start, end);
}

QimgErrno
qimg_storage_allocate(QimgStorage *storage, QimgHostOffset host_offset, uint64_t n_bytes)
{
    QimgErrno err = storage->ops->allocate
                        ? storage->ops->allocate(storage, host_offset.v, n_bytes)
                        : -EOPNOTSUPP;

    return err == -EOPNOTSUPP ? 0 : err;
}

QimgErrno
qimg_storage_preallocate(QimgStorage *storage, QimgHostOffset host_offset,
                         uint64_t n_bytes, bool is_written, const QimgTask *task)
{
    bool is_reserved = !is_written && storage->ops->allocate;
    QimgErrno err = 0;

    for (uint64_t done = 0, n; !err && done < n_bytes; done += n) {
        uint64_t at = host_offset.v + done;

        n = qimg_min_u64(n_bytes - done, is_reserved ? RESERVE_BYTES : FILL_BYTES);
        err = qimg_task_step(task, done, n_bytes);
        if (!err && is_reserved) {
            err = storage->ops->allocate(storage, at, n);
            if (err != -EOPNOTSUPP)
                continue;
            is_reserved = false;
            n = 0; /* restart here with zeros */
            err = 0;
        } else if (!err) {
            err = storage_write_zeros(storage, QIMG_IO_DATA, at, n);
        }
    }
    return err;
}

QimgErrno
qimg_storage_set_size(QimgStorage *storage, uint64_t size_bytes)
{
    uint64_t old_end;
    QimgErrno err;

    if (!storage->ops->set_size)
        return -EROFS;
    if (size_bytes > INT64_MAX)
        return -EFBIG;
    forget_data(storage, size_bytes, UINT64_MAX);
    old_end = known_end(storage);
    if (size_bytes < old_end) /* before the cut, so that no reader misses the bytes */
        atomic_store_explicit(&storage->end_bytes, size_bytes, memory_order_release);
    err = storage->ops->set_size(storage, size_bytes);
    raise_end(storage, err ? old_end : size_bytes);
    return err;
}

QimgErrno
qimg_storage_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    uint64_t size_bytes = 0;

    for (unsigned i = 0; i < MAX_SIZE_LOOKS; i++) {
        uint64_t end_before = known_end(storage);
        QimgErrno err = storage->ops->get_size(storage, &size_bytes);

        if (err)
            return err;
        if (is_cut_at(storage, size_bytes, end_before))
            continue;
        if (!qimg_storage_is_writable(storage))
            raise_end(storage, size_bytes);
        *size_bytes_out = size_bytes;
        return 0;
    }
    return refuse_cut(storage, size_bytes);
}

void
qimg_storage_get_status(QimgStorage *storage, struct stat *out)
{
    if (!storage->ops->get_status || storage->ops->get_status(storage, out) != 0)
        *out = storage->status;
}

bool
qimg_storage_has_changed(QimgStorage *storage)
{
    return !qimg_storage_is_writable(storage) && storage->ops->has_changed &&
           storage->ops->has_changed(storage);
}

uint64_t
qimg_storage_get_free_bytes(QimgStorage *storage)
{
    uint64_t free_bytes = 0;

    if (!storage->ops->get_free || storage->ops->get_free(storage, &free_bytes) != 0)
        return 0;
    return free_bytes;
}

/* Whether @offset lies in the remembered data extent, and the extent's end. */
static bool
is_known_data(QimgStorage *storage, uint64_t offset, uint64_t *end_out)
{
    QIMG_LOCK_SCOPE(&storage->extent_lock);

    *end_out = storage->data_end;
    return offset >= storage->data_start && offset < storage->data_end;
}

static void
remember_data(QimgStorage *storage, uint64_t start, uint64_t end)
{
    QIMG_LOCK_SCOPE(&storage->extent_lock);

    storage->data_start =
        end == storage->data_end ? qimg_min_u64(start, storage->data_start) : start;
    storage->data_end = end;
}

/* Finds the extent at @offset. Callers ask in no particular order, the start of an extent
 * cannot be asked for, and tmpfs needs milliseconds to find its end. So asks first about
 * a place well beyond: mostly the extent reaches there. */
static QimgErrno
find_extent_around(QimgStorage *storage, uint64_t offset, bool *is_data_out,
                   uint64_t *end_out)
{
    uint64_t start = qimg_align_down(offset, EXTENT_WINDOW_BYTES);
    QimgErrno err = storage->ops->find_extent(storage, start, is_data_out, end_out);

    if (!err && *end_out <= offset) {
        start = offset;
        err = storage->ops->find_extent(storage, start, is_data_out, end_out);
    }
    if (!err && !*is_data_out && *end_out == UINT64_MAX) {
        uint64_t size_bytes;

        /* A concurrent cut looks like a hole. */
        err = qimg_storage_get_size(storage, &size_bytes);
    }
    if (!err && *is_data_out)
        remember_data(storage, start, *end_out);
    return err;
}

void
qimg_storage_will_read(QimgStorage *storage, QimgHostOffset host_offset, size_t n_bytes)
{
    qimg_lock_assert_metadata_io();
    if (storage->ops->will_read && host_offset.v < atomic_load(&storage->end_bytes))
        storage->ops->will_read(storage, host_offset.v, n_bytes);
}

QimgErrno
qimg_storage_find_extent(QimgStorage *storage, QimgHostOffset host_offset,
                         bool *is_data_out, uint64_t *end_out)
{
    uint64_t size_bytes = 0;
    QimgErrno err;

    qimg_lock_assert_metadata_io();
    if (is_known_data(storage, host_offset.v, end_out)) {
        *is_data_out = true;
        return 0;
    }
    err = qimg_storage_get_size(storage, &size_bytes);
    if (err)
        return err;
    if (host_offset.v >= size_bytes) {
        *is_data_out = false;
        *end_out = UINT64_MAX;
        return 0;
    }
    if (!storage->ops->find_extent) {
        *is_data_out = true;
        *end_out = size_bytes;
        return 0;
    }
    return find_extent_around(storage, host_offset.v, is_data_out, end_out);
}

bool
qimg_storage_is_sparse(const QimgStorage *storage)
{
    /* A written file may get holes. */
    return S_ISREG(storage->status.st_mode) &&
           (qimg_storage_is_writable(storage) ||
            storage->status.st_blocks < storage->status.st_size / QIMG_SECTOR_BYTES);
}

void
qimg_storage_close(QimgStorage *storage)
{
    if (!storage)
        return;
    g_free(storage->path);
    storage->path = NULL;
    qimg_mutex_clear(&storage->extent_lock);
    qimg_cond_clear(&storage->sync_ended);
    qimg_mutex_clear(&storage->sync_lock);
    storage->ops->close(storage);
}
