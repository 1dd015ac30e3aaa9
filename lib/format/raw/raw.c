/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Raw images: the disk is the file, byte for byte, and exactly as long. */
#include "base/errors.h"
#include "format/driver.h"

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
        .length_bytes = view->size_bytes - guest_offset.v,
        .host_offset = qimg_host(guest_offset.v),
    };
    return 0;
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
    .close = raw_close,
};
