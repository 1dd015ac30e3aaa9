/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An incremental copy: the parts of a disk that are dirty in a bitmap replace those of an
 * earlier copy. Nothing else of the target is read or written, and it has no journal: an
 * interrupted copy is repeated as a whole, with the same result. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/errors.h"
#include "base/struct-size.h"
#include "copy/copy-place.h"
#include "copy/copy-prepare.h"
#include "copy/copy-source.h"
#include "copy/copy-target.h"
#include "copy/copy-zeros.h"

#define DIRTY_PIECE_BYTES (4 * QIMG_MIB)

typedef struct {
    QimgImage *image;
    const QimgCopyOptions *options;
    CopyTarget target;
    QimgBitmapReader *reader;
    uint8_t *buffer; /* DIRTY_PIECE_BYTES */
    QimgCopyReport report;
} DirtyCopy;

/* ---- before any change ---- */

static QimgBitmapReader *
find_bitmap(QimgImage *image, const char *name, GError **error)
{
    g_autoptr(QimgBitmaps) list = qimg_image_read_bitmaps(image, error);
    const char *reason;
    unsigned place;

    if (!list || !qimg_bitmaps_find(list, name, &place, error))
        return NULL;
    reason = qimg_bitmap_get_reason(qimg_bitmaps_get(list, place));
    if (!reason)
        return qimg_bitmap_reader_new(image, list, place);
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "the bits of the bitmap \"%s\" cannot be told: %s (make a full copy)",
                   name, reason);
    return NULL;
}

/* Whether an earlier copy to @path was interrupted. */
static bool
has_journal(const char *path)
{
    CopyPlace place = {.dir_fd = -1};
    struct stat status;
    bool has;

    has = copy_place_open(&place, path, true, NULL) &&
          copy_place_get_status(&place, place.journal_name, &status);
    copy_place_close(&place);
    return has;
}

static bool
open_earlier(DirtyCopy *copy, GError **error)
{
    const char *path = copy->options->target_path;
    uint64_t size_bytes = 0;
    struct stat status;
    qimg_autofd fd = -1;
    QimgErrno err;

    if (stat(path, &status) == 0 && S_ISBLK(status.st_mode))
        fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC | O_NOCTTY);
    else
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) < 0) {
        qimg_set_error_errno(error, errno,
                             errno == ENOENT ? "make a full copy first" : NULL,
                             "cannot be opened");
        return false;
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is neither a file nor a block device, and so no earlier copy");
        return false;
    }
    if (has_journal(path)) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is a copy that was interrupted (finish it with --resume)");
        return false;
    }
    if (!copy_target_take(&copy->target, qimg_steal_fd(&fd), path, copy->image, error))
        return false;
    err = qimg_storage_get_size(copy->target.storage, &size_bytes);
    if (!err && size_bytes == copy->report.size_bytes)
        return true;
    if (err)
        qimg_set_error_errno(error, -err, NULL, "its size cannot be read");
    else
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "has %" G_GUINT64_FORMAT " bytes and the disk %" G_GUINT64_FORMAT
                       ", so it is no earlier copy (make a full one)",
                       (guint64)size_bytes, (guint64)copy->report.size_bytes);
    return false;
}

/* ---- one piece ---- */

static bool
set_write_error(DirtyCopy *copy, QimgErrno err, uint64_t guest_offset, GError **error)
{
    copy->report.is_target_at_fault = true;
    qimg_set_error_errno(error, -err, err == -ENOSPC ? "make room" : NULL,
                         "cannot write at offset %" G_GUINT64_FORMAT,
                         (guint64)guest_offset);
    return false;
}

static QimgErrno
zero_target(DirtyCopy *copy, uint64_t guest_offset, uint64_t n_bytes)
{
    return copy->options->keep_zeros
               ? copy_target_write_hole(&copy->target, guest_offset, n_bytes)
               : qimg_storage_zero(copy->target.storage, QIMG_IO_DATA,
                                   qimg_host(guest_offset), n_bytes);
}

/* Writes the buffer; granules of zeros become holes. */
static QimgErrno
write_dirty(DirtyCopy *copy, uint64_t guest_offset, size_t n_bytes)
{
    size_t at = 0;
    QimgErrno err = 0;

    while (!err && at < n_bytes) {
        size_t start = at, end = n_bytes;

        if (!copy->options->keep_zeros &&
            !copy_find_data(copy->buffer, n_bytes, &start, &end))
            start = n_bytes;
        if (start > at)
            err = zero_target(copy, guest_offset + at, start - at);
        if (!err && start < n_bytes) {
            err = qimg_storage_write(copy->target.storage, QIMG_IO_DATA,
                                     qimg_host(guest_offset + start),
                                     copy->buffer + start, end - start);
            copy->report.data_bytes += end - start;
        }
        at = start < n_bytes ? end : n_bytes;
    }
    return err;
}

/* Copies the start of [@start, @end): a hole, or a piece of data. */
static bool
copy_next(DirtyCopy *copy, uint64_t start, uint64_t end, uint64_t *next_out,
          GError **error)
{
    uint64_t data_offset = end;
    QimgErrno err = qimg_image_seek(copy->image, start, FALSE, &data_offset);

    if (err == -ENXIO)
        data_offset = end;
    else if (err)
        data_offset = start; /* the read tells why */
    *next_out = qimg_min_u64(end, start + DIRTY_PIECE_BYTES);
    if (data_offset > start) {
        *next_out = qimg_min_u64(data_offset, end);
        err = zero_target(copy, start, *next_out - start);
        return !err || set_write_error(copy, err, start, error);
    }
    err = qimg_image_read(copy->image, start, copy->buffer, *next_out - start);
    if (err) {
        qimg_set_error_errno(error, -err, NULL,
                             "cannot read offset %" G_GUINT64_FORMAT " of the disk",
                             (guint64)start);
        return false;
    }
    err = write_dirty(copy, start, *next_out - start);
    return !err || set_write_error(copy, err, start, error);
}

/* ---- all ---- */

static bool
tell_dirty_progress(DirtyCopy *copy, uint64_t done, GError **error)
{
    const QimgCopyOptions *options = copy->options;

    if (!options->on_progress ||
        options->on_progress(done, copy->report.size_bytes, options->user))
        return true;
    qimg_set_error(error, QIMG_ERROR_CANCELED, "the copy was stopped (repeat it)");
    return false;
}

static bool
copy_extent(DirtyCopy *copy, uint64_t start, uint64_t end, GError **error)
{
    while (start < end) {
        uint64_t next = end;

        if (!copy_next(copy, start, end, &next, error))
            return false;
        copy->report.done_bytes += next - start;
        start = next;
        if (!tell_dirty_progress(copy, start, error))
            return false;
    }
    return true;
}

static bool
copy_extents(DirtyCopy *copy, GError **error)
{
    QimgBitmapExtent extent = {.struct_bytes = sizeof extent};

    for (uint64_t at = 0; at < copy->report.size_bytes; at += extent.length_bytes) {
        QimgErrno err = qimg_bitmap_reader_map(copy->reader, at, &extent);

        if (err) {
            qimg_set_error_errno(error, -err, NULL, "cannot read the bitmap");
            return false;
        }
        if (!(extent.is_dirty
                  ? copy_extent(copy, at, at + extent.length_bytes, error)
                  : tell_dirty_progress(copy, at + extent.length_bytes, error)))
            return false;
    }
    return true;
}

static bool
finish_dirty(DirtyCopy *copy, GError **error)
{
    const char *path = NULL;
    QimgErrno err = qimg_storage_sync(copy->target.storage);

    if (err) {
        copy->report.is_target_at_fault = true;
        qimg_set_error_errno(error, -err, NULL, "the written data cannot be synced");
        return false;
    }
    if (copy_find_change(copy->image, &path) != COPY_CHANGED)
        return true;
    qimg_set_error(error, QIMG_ERROR_FAILED,
                   "\"%s\" was changed during the copy (repeat it)", path);
    return false;
}

static bool
run_dirty(DirtyCopy *copy, const char *bitmap, GError **error)
{
    if (!copy_check_image(copy->image, error))
        return false;
    copy->reader = find_bitmap(copy->image, bitmap, error);
    if (!copy->reader)
        return false;
    copy->report.is_target_at_fault = true;
    if (!open_earlier(copy, error))
        return false;
    copy->report.is_target_at_fault = false;
    copy->buffer = g_try_malloc(DIRTY_PIECE_BYTES);
    if (!copy->buffer) {
        qimg_set_error_errno(error, ENOMEM, NULL, "cannot begin the copy");
        return false;
    }
    return copy_extents(copy, error) && finish_dirty(copy, error);
}

gboolean
qimg_copy_dirty(QimgImage *image, const char *bitmap, const QimgCopyOptions *options,
                QimgCopyReport *report, GError **error)
{
    QimgCopyOptions own;
    DirtyCopy copy = {
        .image = image,
        .options = &own,
        .target = {.fd = -1, .stream_fd = -1},
        .report = {.struct_bytes = sizeof copy.report,
                   .size_bytes = qimg_image_get_size_bytes(image)},
    };
    bool is_good = false;

    if (!qimg_struct_take(&own, sizeof own, options) || !own.target_path)
        return qimg_misuse(error, "an incremental copy needs a target with a name");
    copy.target.keeps_zeros = own.keep_zeros;
    is_good = run_dirty(&copy, bitmap, error);
    copy_target_close(&copy.target);
    qimg_bitmap_reader_free(copy.reader);
    g_free(copy.buffer);
    if (report)
        (void)qimg_struct_give(report, &copy.report, sizeof copy.report);
    return is_good;
}
