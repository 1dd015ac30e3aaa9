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

/* LuksRead; within the area, as luks_header_decode has checked. */
static QimgErrno
read_area(void *user, uint64_t offset, uint8_t *bytes, size_t n_bytes)
{
    const QimgFormat *format = user;

    return qimg_storage_read(format->file, QIMG_IO_HEADER,
                             qimg_host(format->luks_offset + offset), bytes, n_bytes);
}

static QimgErrno
write_area(void *user, uint64_t offset, const uint8_t *bytes, size_t n_bytes)
{
    const QimgFormat *format = user;

    return qimg_storage_write(format->file, QIMG_IO_HEADER,
                              qimg_host(format->luks_offset + offset), bytes, n_bytes);
}

static QimgErrno
sync_area(void *user)
{
    const QimgFormat *format = user;

    return qimg_storage_sync(format->file);
}

LuksDevice
qimg_format_luks_device(QimgFormat *format)
{
    return (LuksDevice){
        .read = read_area, .write = write_area, .sync = sync_area, .user = format};
}

/* Reads and checks the header. */
static bool
load_luks(QimgFormat *format, uint64_t area_offset, uint64_t area_bytes,
          LuksHeader *header_out, GError **error)
{
    uint8_t bytes[LUKS_HEADER_BYTES];
    uint64_t file_bytes = 0;
    QimgDecode decoded;
    QimgErrno err = qimg_storage_get_size(format->file, &file_bytes);

    if (!err && (area_bytes < LUKS_HEADER_BYTES || area_bytes > LUKS_MAX_AREA_BYTES ||
                 !qimg_range_fits(area_offset, area_bytes, file_bytes)))
        return qimg_refuse_header(
            error, qimg_decode_broken(QIMG_RULE_ENCRYPTION_HEADER, area_offset), 0,
            "without its LUKS header the data of the image are lost");
    format->luks_offset = area_offset;
    if (!err)
        err = read_area(format, 0, bytes, sizeof bytes);
    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read the LUKS header");
        return false;
    }
    decoded = luks_header_decode(bytes, sizeof bytes, area_bytes, header_out);
    if (!decoded.rule)
        return true;
    return qimg_refuse_header(error, decoded, 0,
                              "the LUKS header is damaged; restore it from a backup of "
                              "the image");
}

bool
qimg_format_open_luks(QimgFormat *format, const QimgFormatEnv *env, uint64_t area_offset,
                      uint64_t area_bytes, GError **error)
{
    g_autoptr(GError) reason = NULL;
    LuksHeader header;
    bool is_loaded, is_without_key;

    format->encryption = "luks";
    is_loaded = load_luks(format, area_offset, area_bytes, &header, &reason);
    is_without_key = (is_loaded || env->inspect) && goes_without_key(format, env);
    if (is_loaded) {
        format->luks = g_memdup2(&header, sizeof header);
    } else if (is_without_key) {
        qimg_format_warn(format, "%s", reason->message);
    } else {
        g_propagate_error(error, g_steal_pointer(&reason));
        return false;
    }
    if (is_without_key)
        return true;
    return take_cipher(format, qimg_keyring_open_luks(env->keyring, format->luks,
                                                      env->depth, format->file->path,
                                                      read_area, format, error));
}
