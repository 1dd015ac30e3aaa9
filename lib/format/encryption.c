/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From the header of an encrypted layer to its cipher. */
#include "format/encryption.h"

#include <errno.h>

#include "base/checked.h"
#include "base/errors.h"

/* Whether only facts are wanted. */
static bool
goes_without_key(QimgFormat *format, const QimgFormatEnv *env)
{
    if (!env->inspect)
        return false;
    format->data_error = -ENOKEY;
    qimg_format_warn(format, "is encrypted (%s): its data need its passphrase",
                     format->encryption);
    return true;
}

/* Takes the @cipher (owned; NULL: none). */
static bool
take_cipher(QimgFormat *format, QimgCipher *cipher)
{
    format->cipher = cipher;
    if (cipher && format->is_writable)
        format->sectors = qimg_sectors_new();
    return cipher != NULL;
}

bool
qimg_format_open_aes(QimgFormat *format, const QimgFormatEnv *env, GError **error)
{
    format->encryption = "aes";
    if (goes_without_key(format, env))
        return true;
    format->iv_counts_guest = true;
    if (!take_cipher(format, qimg_keyring_open_aes(env->keyring, env->depth,
                                                   format->file->path, error)))
        return false;
    qimg_format_warn(format, "is encrypted (aes): nothing tells whether the "
                             "passphrase is right; with a wrong one the disk is noise");
    return true;
}

/* The place of a LUKS header. */
typedef struct {
    QimgStorage *file;
    uint64_t offset;
} Area;

/* LuksRead; within the area, as luks_header_decode has checked. */
static QimgErrno
read_area(void *user, uint64_t offset, uint8_t *bytes, size_t n_bytes)
{
    const Area *area = user;

    return qimg_storage_read(area->file, QIMG_IO_HEADER, qimg_host(area->offset + offset),
                             bytes, n_bytes);
}

bool
qimg_format_open_luks(QimgFormat *format, const QimgFormatEnv *env, uint64_t area_offset,
                      uint64_t area_bytes, GError **error)
{
    Area area = {.file = format->file, .offset = area_offset};
    uint8_t bytes[LUKS_HEADER_BYTES];
    uint64_t file_bytes = 0;
    QimgDecode decoded;
    LuksHeader header;
    QimgErrno err;

    format->encryption = "luks";
    if (goes_without_key(format, env))
        return true;
    err = qimg_storage_get_size(format->file, &file_bytes);
    if (!err && (area_bytes < LUKS_HEADER_BYTES || area_bytes > LUKS_MAX_AREA_BYTES ||
                 !qimg_range_fits(area_offset, area_bytes, file_bytes)))
        return qimg_refuse_header(
            error, qimg_decode_broken(QIMG_RULE_ENCRYPTION_HEADER, area_offset), 0,
            "without its LUKS header the data of the image are lost");
    if (!err)
        err = read_area(&area, 0, bytes, sizeof bytes);
    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read the LUKS header");
        return false;
    }
    decoded = luks_header_decode(bytes, sizeof bytes, area_bytes, &header);
    if (decoded.rule)
        return qimg_refuse_header(
            error, decoded, 0,
            "the LUKS header is damaged; restore it from a backup of "
            "the image");
    return take_cipher(format, qimg_keyring_open_luks(env->keyring, &header, env->depth,
                                                      format->file->path, read_area,
                                                      &area, error));
}
