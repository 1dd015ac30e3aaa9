/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all storages share: whole-length reads, counters. */
#include "storage/storage.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#include "base/checked.h"
#include "base/lock.h"

/* How far below a place its extent is looked for. */
#define EXTENT_WINDOW_BYTES (256 * QIMG_MIB)

const char *const qimg_io_purpose_names[QIMG_N_IO_PURPOSES] = {
    [QIMG_IO_HEADER] = "header", [QIMG_IO_L1] = "l1",
    [QIMG_IO_L2] = "l2",         [QIMG_IO_SNAPSHOT] = "snapshot",
    [QIMG_IO_DATA] = "data",     [QIMG_IO_COMPRESSED] = "compressed",
};

void
qimg_storage_init(QimgStorage *storage, const QimgStorageOps *ops, const char *path)
{
    storage->ops = ops;
    storage->path = g_strdup(path);
    qimg_mutex_init(&storage->extent_lock, QIMG_RANK_STORAGE);
}

QimgErrno
qimg_storage_read(QimgStorage *storage, QimgIoPurpose purpose, QimgHostOffset host_offset,
                  void *buffer, size_t n_bytes)
{
    uint8_t *bytes = buffer;
    size_t done = 0;

    qimg_lock_assert_none_held();
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
            memset(bytes + done, 0, n_bytes - done);
            break;
        }
        done += (size_t)got;
    }
    atomic_fetch_add_explicit(&storage->n_reads[purpose], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&storage->bytes_read[purpose], done, memory_order_relaxed);
    return 0;
}

QimgErrno
qimg_storage_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    return storage->ops->get_size(storage, size_bytes_out);
}

/* Whether @offset lies in the stretch that is known to be data, and where that ends. */
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

/* Asks for the extent at @offset, which may be one of many questions in no order: a file
 * cannot be asked where an extent begins, and tmpfs needs milliseconds to find its end.
 * So it is asked a good way further down first: mostly that is the same extent. */
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
    if (!err && *is_data_out)
        remember_data(storage, start, *end_out);
    return err;
}

QimgErrno
qimg_storage_find_extent(QimgStorage *storage, QimgHostOffset host_offset,
                         bool *is_data_out, uint64_t *end_out)
{
    uint64_t size_bytes = 0;
    QimgErrno err;

    qimg_lock_assert_none_held();
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
    return S_ISREG(storage->status.st_mode) &&
           storage->status.st_blocks < storage->status.st_size / QIMG_SECTOR_BYTES;
}

void
qimg_storage_close(QimgStorage *storage)
{
    if (!storage)
        return;
    g_free(storage->path);
    storage->path = NULL;
    qimg_mutex_clear(&storage->extent_lock);
    storage->ops->close(storage);
}
