/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages by their index; a page of zeros need not exist. */
#include "sparse-disk.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#define PAGE_BYTES 4096u

struct SparseDisk {
    uint64_t size_bytes;
    uint64_t max_bytes;
    uint64_t n_pages;
    uint8_t **pages; /* NULL: zeros */
};

typedef struct {
    QimgStorage storage;
    SparseDisk *disk;
} SparseStorage;

static SparseDisk *
disk_of(QimgStorage *storage)
{
    return ((SparseStorage *)storage)->disk;
}

/* Copies from @source, or zeros for NULL; the range is below max_bytes. Bytes past the
 * end of the file are always zeros. */
static void
put(SparseDisk *disk, uint64_t at, const uint8_t *source, uint64_t n_bytes)
{
    while (n_bytes > 0) {
        uint64_t in_page = at % PAGE_BYTES;
        uint64_t n = MIN(n_bytes, PAGE_BYTES - in_page);
        uint8_t **page = &disk->pages[at / PAGE_BYTES];

        if (!source && n == PAGE_BYTES) {
            g_clear_pointer(page, g_free);
        } else if (source || *page) {
            if (!*page)
                *page = g_malloc0(PAGE_BYTES);
            if (source)
                memcpy(*page + in_page, source, n);
            else
                memset(*page + in_page, 0, n);
        }
        at += n;
        n_bytes -= n;
        source = source ? source + n : NULL;
    }
}

static ssize_t
sparse_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
             void *buffer, size_t n_bytes)
{
    SparseDisk *disk = disk_of(storage);
    const uint8_t *page;
    uint64_t in_page = file_offset % PAGE_BYTES;

    (void)purpose;
    if (file_offset >= disk->size_bytes)
        return 0;
    n_bytes = MIN(n_bytes, disk->size_bytes - file_offset);
    n_bytes =
        MIN(n_bytes, PAGE_BYTES - in_page); /* short reads are part of the contract */
    page = disk->pages[file_offset / PAGE_BYTES];
    if (page)
        memcpy(buffer, page + in_page, n_bytes);
    else
        memset(buffer, 0, n_bytes);
    return (ssize_t)n_bytes;
}

static QimgErrno
sparse_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    *size_bytes_out = disk_of(storage)->size_bytes;
    return 0;
}

static ssize_t
sparse_pwritev(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
               const struct iovec *parts, int n_parts)
{
    SparseDisk *disk = disk_of(storage);
    uint64_t done = 0;

    (void)purpose;
    if (file_offset >= disk->max_bytes)
        return -ENOSPC;
    for (int i = 0; i < n_parts && file_offset + done < disk->max_bytes; i++) {
        uint64_t n = MIN(parts[i].iov_len, disk->max_bytes - file_offset - done);

        put(disk, file_offset + done, parts[i].iov_base, n);
        done += n;
    }
    disk->size_bytes = MAX(disk->size_bytes, file_offset + done);
    return (ssize_t)done;
}

static QimgErrno
sparse_sync(QimgStorage *storage)
{
    (void)storage;
    return 0;
}

static QimgErrno
sparse_punch(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
             uint64_t n_bytes)
{
    SparseDisk *disk = disk_of(storage);

    (void)purpose;
    if (file_offset < disk->size_bytes)
        put(disk, file_offset, NULL, MIN(n_bytes, disk->size_bytes - file_offset));
    return 0;
}

static QimgErrno
sparse_set_size(QimgStorage *storage, uint64_t size_bytes)
{
    SparseDisk *disk = disk_of(storage);

    if (size_bytes > disk->max_bytes)
        return -EFBIG;
    if (size_bytes < disk->size_bytes)
        put(disk, size_bytes, NULL, disk->size_bytes - size_bytes);
    disk->size_bytes = size_bytes;
    return 0;
}

static void
sparse_close(QimgStorage *storage)
{
    g_free(storage);
}

static const QimgStorageOps reading_ops = {
    .pread = sparse_pread,
    .get_size = sparse_get_size,
    .close = sparse_close,
};

static const QimgStorageOps writing_ops = {
    .pread = sparse_pread,
    .get_size = sparse_get_size,
    .pwritev = sparse_pwritev,
    .sync = sparse_sync,
    .punch = sparse_punch,
    .set_size = sparse_set_size,
    .close = sparse_close,
};

SparseDisk *
sparse_disk_new(const void *bytes, size_t n_bytes, uint64_t max_bytes)
{
    SparseDisk *disk = g_new0(SparseDisk, 1);

    disk->max_bytes = MAX(max_bytes, n_bytes);
    disk->size_bytes = n_bytes;
    disk->n_pages = disk->max_bytes / PAGE_BYTES + 1;
    disk->pages = g_new0(uint8_t *, disk->n_pages);
    put(disk, 0, bytes, n_bytes);
    return disk;
}

QimgStorage *
sparse_disk_open(SparseDisk *disk, bool is_writable)
{
    SparseStorage *sparse = g_new0(SparseStorage, 1);

    qimg_storage_init(&sparse->storage, is_writable ? &writing_ops : &reading_ops,
                      "image", disk->size_bytes);
    sparse->disk = disk;
    return &sparse->storage;
}

void
sparse_disk_free(SparseDisk *disk)
{
    if (!disk)
        return;
    for (uint64_t i = 0; i < disk->n_pages; i++)
        g_free(disk->pages[i]);
    g_free(disk->pages);
    g_free(disk);
}
