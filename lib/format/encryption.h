/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Encrypted layers: their cipher is made while they are opened. */
#pragma once

#include "crypt/luks-slots.h"
#include "format/format.h"

/* Makes the layer's cipher for the method AES of qcow2 and qcow images, or decides that
 * only facts are wanted: its data then fail with ENOKEY, and a warning says so. Errors:
 * ENCRYPTED without a passphrase. Spec: encryption section 2. */
bool qimg_format_open_aes(QimgFormat *format, const QimgFormatEnv *env, GError **error);

/* As qimg_format_open_aes, for the LUKS header and key material in the @area_bytes at
 * @area_offset of the layer's file, both untrusted. Sets format->luks; a damaged header
 * is a warning where only facts are wanted. Errors: ENCRYPTED also if no passphrase fits,
 * INVALID for a damaged header, those of the storage. Spec: encryption section 3. */
bool qimg_format_open_luks(QimgFormat *format, const QimgFormatEnv *env,
                           uint64_t area_offset, uint64_t area_bytes, GError **error);

/* The area of format->luks, for changes of its key slots. Valid as long as @format. */
LuksDevice qimg_format_luks_device(QimgFormat *format);
