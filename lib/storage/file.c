/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Storage over a file descriptor. Only lseek uses the descriptor's own position, and its
 * results do not depend on it, so any number of threads share it. */
#include "storage/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/errors.h"
#include "base/wait-hook.h"
#include "storage/direct-file.h"
#include "storage/file-lock.h"
#include "storage/file-stamp.h"
#include "storage/file-waits.h"

typedef struct {
    QimgStorage storage;
    int fd;            /* const after open */
    DirectFile direct; /* const after open: for data, if open */
    bool is_device;    /* const after open: a block device */
    FileWaits waits;
    FileStamp stamp;
    _Atomic bool unlocks; /* atomic, relaxed: see qimg_file_storage_unlock_at_close */
    QimgStorageOps unsynced_ops; /* const after open: of a file without syncs */
} FileStorage;

static bool
is_direct(const FileStorage *file, QimgIoPurpose purpose)
{
    return file->direct.fd >= 0 &&
           (purpose == QIMG_IO_DATA || purpose == QIMG_IO_COMPRESSED);
}

static ssize_t
file_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
           void *buffer, size_t n_bytes)
{
    FileStorage *file = (FileStorage *)storage;
    ssize_t got;

    if (!is_direct(file, purpose))
        return file_read(&file->waits, file->fd, buffer, n_bytes, file_offset);
    qimg_wait_begin();
    got = direct_file_pread(&file->direct, file->fd, file_offset, buffer, n_bytes);
    qimg_wait_end();
    return got;
}

static ssize_t
file_pwritev(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
             const struct iovec *parts, int n_parts)
{
    FileStorage *file = (FileStorage *)storage;
    ssize_t put;

    if (!is_direct(file, purpose))
        return file_writev(&file->waits, file->fd, parts, n_parts, file_offset);
    qimg_wait_begin();
    put = direct_file_pwritev(&file->direct, file->fd, file_offset, parts, n_parts);
    qimg_wait_end();
    return put;
}

static QimgErrno
file_sync(QimgStorage *storage)
{
    FileStorage *file = (FileStorage *)storage;

    return file_sync_data(&file->waits, file->fd);
}

static QimgErrno
call_fallocate(QimgStorage *storage, int mode, uint64_t file_offset, uint64_t n_bytes)
{
    int result;

    do
        result = fallocate(((FileStorage *)storage)->fd, mode, (off_t)file_offset,
                           (off_t)n_bytes);
    while (result < 0 && errno == EINTR);
    if (result == 0)
        return 0;
    return errno == ENOSYS || errno == ENODEV ? -EOPNOTSUPP : -errno;
}

static QimgErrno
file_punch(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
           uint64_t n_bytes)
{
    (void)purpose;
    return call_fallocate(storage, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          file_offset, n_bytes);
}

static QimgErrno
file_allocate(QimgStorage *storage, uint64_t file_offset, uint64_t n_bytes)
{
    if (((FileStorage *)storage)->is_device) /* fallocate would change nothing there */
        return -EOPNOTSUPP;
    return call_fallocate(storage, FALLOC_FL_KEEP_SIZE, file_offset, n_bytes);
}

static QimgErrno
file_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    FileStorage *file = (FileStorage *)storage;
    struct stat status;

    /* A device may have been enlarged since. */
    if (file->is_device)
        return ioctl(file->fd, BLKGETSIZE64, size_bytes_out) < 0 ? -errno : 0;
    if (fstat(file->fd, &status) < 0)
        return -errno;
    *size_bytes_out = (uint64_t)status.st_size;
    return 0;
}

static QimgErrno
file_set_size(QimgStorage *storage, uint64_t size_bytes)
{
    FileStorage *file = (FileStorage *)storage;
    uint64_t device_bytes = 0;
    QimgErrno err;

    if (!file->is_device)
        return ftruncate(file->fd, (off_t)size_bytes) < 0 ? -errno : 0;
    err = file_get_size(storage, &device_bytes);
    if (err) /* its size is fixed, but using less of it is allowed */
        return err;
    return size_bytes <= device_bytes ? 0 : -ENOSPC;
}

static QimgErrno
file_get_status(QimgStorage *storage, struct stat *out)
{
    FileStorage *file = (FileStorage *)storage;

    if (fstat(file->fd, out) < 0)
        return -errno;
    if (file->is_device)
        out->st_blocks = storage->status.st_blocks;
    return 0;
}

static void
file_will_read(QimgStorage *storage, uint64_t file_offset, size_t n_bytes)
{
    FileStorage *file = (FileStorage *)storage;

    (void)posix_fadvise(file->fd, (off_t)file_offset, (off_t)n_bytes,
                        POSIX_FADV_WILLNEED);
}

static QimgErrno
file_find_extent(QimgStorage *storage, uint64_t file_offset, bool *is_data_out,
                 uint64_t *end_out)
{
    FileStorage *file = (FileStorage *)storage;
    off_t data = lseek(file->fd, (off_t)file_offset, SEEK_DATA);
    off_t hole;

    if (data < 0 && errno == ENXIO) { /* a hole up to the end of the file */
        *is_data_out = false;
        *end_out = UINT64_MAX;
        return 0;
    }
    if (data > (off_t)file_offset) {
        *is_data_out = false;
        *end_out = (uint64_t)data;
        return 0;
    }
    hole = data < 0 ? -1 : lseek(file->fd, (off_t)file_offset, SEEK_HOLE);
    *is_data_out = true;
    if (hole < 0) /* the file system or device cannot tell: treat all as data */
        return file_get_size(storage, end_out);
    *end_out = (uint64_t)hole;
    return 0;
}

static QimgErrno
file_get_free(QimgStorage *storage, uint64_t *free_bytes_out)
{
    FileStorage *file = (FileStorage *)storage;
    struct statvfs host;

    if (file->is_device) {
        *free_bytes_out = 0;
        return 0;
    }
    if (fstatvfs(file->fd, &host) < 0)
        return -errno;
    *free_bytes_out = (uint64_t)host.f_bavail * host.f_frsize;
    return 0;
}

static bool
file_has_changed(QimgStorage *storage)
{
    FileStorage *file = (FileStorage *)storage;

    return file_stamp_has_changed(&file->stamp, file->fd);
}

static void
file_close(QimgStorage *storage)
{
    FileStorage *file = (FileStorage *)storage;

    file_stamp_clear(&file->stamp);
    direct_file_close(&file->direct);
    if (atomic_load_explicit(&file->unlocks, memory_order_relaxed))
        qimg_file_unlock(file->fd);
    close(file->fd);
    g_free(file);
}

static const QimgStorageOps writable_file_ops = {
    .pread = file_pread,
    .will_read = file_will_read,
    .get_size = file_get_size,
    .find_extent = file_find_extent,
    .get_status = file_get_status,
    .get_free = file_get_free,
    .get_fd = qimg_file_storage_get_fd,
    .pwritev = file_pwritev,
    .sync = file_sync,
    .punch = file_punch,
    .allocate = file_allocate,
    .set_size = file_set_size,
    .close = file_close,
};

static const QimgStorageOps file_ops = {
    .pread = file_pread,
    .will_read = file_will_read,
    .get_size = file_get_size,
    .find_extent = file_find_extent,
    .has_changed = file_has_changed,
    .get_status = file_get_status,
    .get_fd = qimg_file_storage_get_fd,
    .close = file_close,
};

static const char *
kind_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "a directory";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    case S_IFCHR:
        return "a character device";
    case S_IFBLK:
        return "a block device";
    default:
        return "no regular file";
    }
}

int
qimg_file_reopen(int path_fd, bool allow_device, bool for_writing, GError **error)
{
    int flags =
        (for_writing ? O_RDWR : O_RDONLY) | O_NOATIME | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", path_fd);
    struct stat status;
    int fd;

    if (fstat(path_fd, &status) < 0) {
        qimg_set_error_errno(error, errno, NULL, "cannot read its status");
        return -1;
    }
    if (!S_ISREG(status.st_mode) && !(allow_device && S_ISBLK(status.st_mode))) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is %s, not a disk image (name a regular file%s)",
                       kind_of(status.st_mode), allow_device ? " or block device" : "");
        return -1;
    }
    if (for_writing && S_ISBLK(status.st_mode))
        flags |= O_EXCL; /* fails while it is mounted or part of a volume */
    fd = open(link, flags);
    if (fd < 0 && errno == EPERM) /* O_NOATIME requires the file's owner or root */
        fd = open(link, flags & ~O_NOATIME);
    if (fd < 0)
        qimg_set_error_errno(
            error, errno,
            errno == EBUSY   ? "it is mounted, used by LVM, RAID or another device, "
                               "or written to by another program: end that first, "
                               "or leave out -o rw"
            : errno == EROFS ? "it can only be read: leave out -o rw, write to an "
                               "overlay with -o cow=FILE, or copy it elsewhere"
            : for_writing    ? "check its permissions, or leave out -o rw"
                             : "check its permissions",
            "cannot open%s", for_writing ? " for writing" : "");
    return fd;
}

QimgStorage *
qimg_file_storage_new(int fd_in, const char *path, bool is_writable, GError **error)
{
    qimg_autofd fd = fd_in;
    uint64_t device_bytes = 0;
    int block_bytes = 0;
    struct stat status;
    FileStorage *file;

    if (fstat(fd, &status) < 0) {
        qimg_set_error_errno(error, errno, NULL, "cannot read its status");
        return NULL;
    }
    if (S_ISBLK(status.st_mode) && (ioctl(fd, BLKGETSIZE64, &device_bytes) < 0 ||
                                    ioctl(fd, BLKSSZGET, &block_bytes) < 0)) {
        qimg_set_error_errno(error, errno, NULL, "cannot read the size of the device");
        return NULL;
    }
    file = g_new0(FileStorage, 1);
    qimg_storage_init(&file->storage, is_writable ? &writable_file_ops : &file_ops, path,
                      S_ISBLK(status.st_mode) ? device_bytes : (uint64_t)status.st_size);
    file->storage.status = status;
    /* A device reports no holes, so all of it counts as allocated. */
    if (S_ISBLK(status.st_mode))
        file->storage.status.st_blocks = (blkcnt_t)(device_bytes / QIMG_SECTOR_BYTES);
    file->storage.punch_unit_bytes = (uint64_t)block_bytes;
    file->is_device = S_ISBLK(status.st_mode);
    file->direct = DIRECT_FILE_NONE;
    file_waits_init(&file->waits, fd);
    file_stamp_init(&file->stamp, fd, &status);
    file->fd = qimg_steal_fd(&fd);
    return &file->storage;
}

QimgErrno
qimg_file_storage_go_direct(QimgStorage *storage)
{
    FileStorage *file = (FileStorage *)storage;

    return direct_file_open(&file->direct, file->fd);
}

QimgStorage *
qimg_file_storage_share(QimgStorage *old, GError **error)
{
    const FileStorage *old_file = (const FileStorage *)old;
    int fd = fcntl(old_file->fd, F_DUPFD_CLOEXEC, 0);
    QimgStorage *storage =
        fd < 0 ? NULL : qimg_file_storage_new(fd, old->path, false, error);
    QimgErrno err = fd < 0 ? -errno : 0;

    /* The locks are those of both. */
    atomic_store_explicit(&((FileStorage *)old)->unlocks, false, memory_order_relaxed);
    if (storage)
        err = direct_file_share(&((FileStorage *)storage)->direct, &old_file->direct);
    if (!err)
        return storage;
    qimg_set_error_errno(error, -err, NULL, "cannot open it again");
    qimg_storage_close(storage);
    return NULL;
}

int
qimg_file_storage_get_fd(const QimgStorage *storage)
{
    return ((const FileStorage *)storage)->fd;
}

void
qimg_file_storage_unlock_at_close(QimgStorage *storage)
{
    atomic_store_explicit(&((FileStorage *)storage)->unlocks, true, memory_order_relaxed);
}

void
qimg_file_storage_skip_syncs(QimgStorage *storage)
{
    FileStorage *file = (FileStorage *)storage;

    g_assert(storage->ops == &writable_file_ops);
    file->unsynced_ops = writable_file_ops;
    file->unsynced_ops.sync = NULL;
    storage->ops = &file->unsynced_ops;
}
