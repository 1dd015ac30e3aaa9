/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Raw images: the disk is the file, byte for byte, and exactly as long. */
#include <errno.h>
#include <sys/stat.h>

#include "base/errors.h"
#include "format/drivers.h"

#define PAGE_BYTES 4096u

static QimgFormat *
raw_open(QimgStorage *file, const QimgFormatEnv *env, GError **error)
{
    QimgFormat *format;
    uint64_t size_bytes = 0;
    QimgErrno err = qimg_storage_get_size(file, &size_bytes);

    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read its size");
        return NULL;
    }
    format = g_new0(QimgFormat, 1);
    qimg_format_init(format, &qimg_driver_raw, file, env);
    format->active.size_bytes = size_bytes;
    format->cluster_bytes = PAGE_BYTES;
    format->alloc_unit_bytes = UINT64_C(1) << 62; /* one run: no boundary inside */
    return format;
}

static QimgErrno
raw_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
        uint64_t length_bytes, QimgRun *run_out)
{
    (void)format, (void)length_bytes;
    *run_out = (QimgRun){
        .kind = QIMG_RUN_DATA,
        .length_bytes = qimg_view_size_bytes(view) - guest_offset.v,
        .host_offset = qimg_host(guest_offset.v),
    };
    return 0;
}

static QimgErrno
raw_plan_write(QimgFormat *format, QimgGuestOffset guest_offset, uint64_t length_bytes,
               QimgWritePlan *plan_out)
{
    (void)format;
    *plan_out = (QimgWritePlan){
        .kind = QIMG_PLAN_IN_PLACE,
        .length_bytes = length_bytes,
        .host_offset = qimg_host(guest_offset.v),
    };
    return 0;
}

static QimgErrno
raw_zero(QimgFormat *format, QimgGuestOffset guest_offset, uint64_t length_bytes,
         QimgZeroMode mode, bool below_is_zero, uint64_t *done_out)
{
    QimgHostOffset host_offset = qimg_host(guest_offset.v);
    QimgErrno err =
        qimg_storage_zero(format->file, QIMG_IO_DATA, host_offset, length_bytes);

    (void)below_is_zero;
    if (!err && mode == QIMG_ZERO_KEEP)
        err = qimg_storage_allocate(format->file, host_offset, length_bytes);
    *done_out = length_bytes;
    return err;
}

static QimgErrno
raw_flush(QimgFormat *format)
{
    return qimg_storage_sync(format->file);
}

static QimgErrno
raw_resize(QimgFormat *format, uint64_t size_bytes, const QimgTask *task)
{
    QimgErrno err = qimg_storage_set_size(format->file, size_bytes);

    (void)task;
    /* A device has a fixed length; one that was enlarged becomes visible completely. */
    if (!err && S_ISBLK(format->file->status.st_mode))
        err = size_bytes < qimg_view_size_bytes(&format->active)
                  ? -EOPNOTSUPP
                  : qimg_storage_get_size(format->file, &size_bytes);
    if (!err)
        qimg_view_set_size_bytes(&format->active, size_bytes);
    return err;
}

static QimgErrno
raw_grow(QimgFormat *format, uint64_t size_bytes)
{
    return S_ISBLK(format->file->status.st_mode) ? -EAGAIN
                                                 : raw_resize(format, size_bytes, NULL);
}

static bool
raw_create(QimgStorage *file, const QimgCreateOptions *options, GError **error)
{
    QimgErrno err = qimg_storage_set_size(file, 0);

    if (!err)
        err = qimg_storage_set_size(file, options->size_bytes);
    if (!err && options->preallocation != QIMG_PREALLOCATION_OFF)
        err = qimg_storage_preallocate(file, qimg_host(0), options->size_bytes,
                                       options->preallocation == QIMG_PREALLOCATION_FULL,
                                       options->task);
    if (!err)
        err = qimg_storage_sync(file);
    if (err)
        qimg_set_error_errno(error, -err, NULL, "cannot write the new image");
    return !err;
}

static void
raw_close(QimgFormat *format)
{
    g_free(format);
}

const QimgDriver qimg_driver_raw = {
    .name = "raw",
    .open = raw_open,
    .map = raw_map,
    .plan_write = raw_plan_write,
    .zero = raw_zero,
    .flush = raw_flush,
    .resize = raw_resize,
    .grow = raw_grow,
    .create = raw_create,
    .close = raw_close,
};
