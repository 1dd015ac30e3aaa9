/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ciphers of disk sectors, as headers name them. Spec: encryption sections 2 and 3.3. */
#pragma once

#include <glib.h>

#include "base/types.h"
#include "crypt/secret.h"

typedef struct QimgCipher QimgCipher;

/* Makes the cipher @name (for example "aes") with mode and IV generator @mode
 * ("xts-plain64", "cbc-essiv:sha256") for the volume key @key, which it copies. Errors:
 * ENCRYPTED for names that are not supported, or a key of a length that they do not have.
 * Free with qimg_cipher_free. */
QimgCipher *qimg_cipher_new(const char *name, const char *mode, const QimgSecret *key,
                            GError **error);

/* Whether qimg_cipher_new accepts these names with a key of @key_bytes; errors: as it. */
bool qimg_cipher_check(const char *name, const char *mode, size_t key_bytes,
                       GError **error);

/* Wipes and frees @cipher; accepts NULL. No other call may be running. */
void qimg_cipher_free(QimgCipher *cipher);

/* Decrypts @n_bytes, a multiple of 512, at @bytes in place; the first sector has the
 * number @sector for its IV. Threads: any, at the same time. Errors: -ENOMEM. */
QimgErrno qimg_cipher_decrypt(QimgCipher *cipher, uint64_t sector, uint8_t *bytes,
                              size_t n_bytes) QIMG_MUST_CHECK;

/* As qimg_cipher_decrypt: encrypts. */
QimgErrno qimg_cipher_encrypt(QimgCipher *cipher, uint64_t sector, uint8_t *bytes,
                              size_t n_bytes) QIMG_MUST_CHECK;

/* As qimg_cipher_encrypt, from @source to @target, which do not overlap. */
QimgErrno qimg_cipher_encrypt_to(QimgCipher *cipher, uint64_t sector,
                                 const uint8_t *source, uint8_t *target, size_t n_bytes)
    QIMG_MUST_CHECK;
