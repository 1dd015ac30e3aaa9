/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LUKS volumes of version 1: the disk is the payload behind the header, whose sectors are
 * counted from there. Spec: encryption sections 3.1 and 3.5.
 *
 * Never probed: a raw disk may begin with a header that its guest has written. */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/errors.h"
#include "format/drivers.h"
#include "format/encryption.h"

#define PAGE_BYTES 4096u

/* The first fields of each version. */
#define VERSION_AT  6u
#define PAYLOAD_AT  104u
#define LOOK_BYTES  (PAYLOAD_AT + 4)
#define KNOWN_MAGIC "LUKS\xba\xbe"

/* Refuses what the header decoder would call damage. */
static bool
check_kind(QimgStorage *file, GError **error)
{
    uint8_t bytes[LOOK_BYTES] = {0};
    size_t n_bytes = 0;
    qimg_be16 version;
    qimg_be32 payload;

    if (!qimg_read_header(file, bytes, sizeof bytes, &n_bytes, error))
        return false;
    if (n_bytes < sizeof bytes || memcmp(bytes, KNOWN_MAGIC, 6) != 0) {
        qimg_set_error(error, QIMG_ERROR_NOT_AN_IMAGE,
                       "is no LUKS volume (leave out -o format=luks)");
        return false;
    }
    memcpy(&version, bytes + VERSION_AT, sizeof version);
    memcpy(&payload, bytes + PAYLOAD_AT, sizeof payload);
    if (qimg_be16_get(version) == 2)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "is a LUKS volume of version 2, and only version 1 can be read "
                       "(open it with cryptsetup)");
    else if (qimg_be16_get(version) == 1 && qimg_be32_get(payload) == 0)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "is a detached LUKS header, whose data are in another file "
                       "(open both with cryptsetup --header)");
    else
        return true;
    return false;
}

static bool
fill_luks(QimgFormat *format, const QimgFormatEnv *env, GError **error)
{
    uint64_t file_bytes = 0, payload_offset;
    QimgErrno err = qimg_storage_get_size(format->file, &file_bytes);

    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read its size");
        return false;
    }
    if (!check_kind(format->file, error) ||
        !qimg_format_open_luks(format, env, 0,
                               qimg_min_u64(file_bytes, LUKS_MAX_AREA_BYTES), error))
        return false;
    if (!format->luks) /* for inspection: a damaged header */
        return true;
    payload_offset = format->luks->payload_offset;
    if (payload_offset > file_bytes) {
        qimg_set_error(error, QIMG_ERROR_INVALID,
                       "LUKS payload offset: is %" PRIu64
                       ", and the file ends at %" PRIu64
                       " (it is cut: copy the whole file)",
                       payload_offset, file_bytes);
        return false;
    }
    format->active.size_bytes =
        qimg_align_down(file_bytes - payload_offset, QIMG_SECTOR_BYTES);
    return true;
}

static QimgFormat *
luks_open(QimgStorage *file, const QimgFormatEnv *env, GError **error)
{
    QimgFormat *format = g_new0(QimgFormat, 1);

    qimg_format_init(format, &qimg_driver_luks, file, env);
    format->iv_counts_guest = true;
    format->cluster_bytes = PAGE_BYTES;
    format->alloc_unit_bytes = UINT64_C(1) << 62; /* one run: no boundary inside */
    if (fill_luks(format, env, error))
        return format;
    format->file = NULL; /* stays the caller's */
    qimg_format_close(format);
    return NULL;
}

static QimgErrno
luks_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
         uint64_t length_bytes, QimgRun *run_out)
{
    (void)length_bytes;
    *run_out = (QimgRun){
        .kind = QIMG_RUN_DATA,
        .length_bytes = qimg_view_size_bytes(view) - guest_offset.v,
        .host_offset = qimg_host(format->luks->payload_offset + guest_offset.v),
    };
    return 0;
}

static QimgErrno
luks_plan_write(QimgFormat *format, QimgGuestOffset guest_offset, uint64_t length_bytes,
                QimgWritePlan *plan_out)
{
    *plan_out = (QimgWritePlan){
        .kind = QIMG_PLAN_IN_PLACE,
        .length_bytes = length_bytes,
        .host_offset = qimg_host(format->luks->payload_offset + guest_offset.v),
    };
    return 0;
}

/* Zeros are written as data: zeros in the file are noise on the disk. */
static QimgErrno
luks_zero(QimgFormat *format, QimgGuestOffset guest_offset, uint64_t length_bytes,
          QimgZeroMode mode, bool below_is_zero, uint64_t *done_out)
{
    (void)format, (void)guest_offset, (void)length_bytes, (void)mode, (void)below_is_zero,
        (void)done_out;
    return -EOPNOTSUPP;
}

static QimgErrno
luks_flush(QimgFormat *format)
{
    return qimg_storage_sync(format->file);
}

/* The disk cannot grow: bytes that a longer file adds are noise. */
static QimgErrno
luks_resize(QimgFormat *format, uint64_t size_bytes, const QimgTask *task)
{
    (void)task;
    return size_bytes == qimg_view_size_bytes(&format->active) ? 0 : -EOPNOTSUPP;
}

static void
luks_close(QimgFormat *format)
{
    g_free(format);
}

const QimgDriver qimg_driver_luks = {
    .name = "luks",
    .open = luks_open,
    .map = luks_map,
    .plan_write = luks_plan_write,
    .zero = luks_zero,
    .flush = luks_flush,
    .resize = luks_resize,
    .close = luks_close,
};
