/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libcrypto, loaded when the first encrypted image or digest needs it: relocating it
 * takes half of the time in which a process starts. A build with --prefer-static contains
 * it. */
#pragma once

#include <glib.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdbool.h>

/* The functions that this library calls. */
#define LIBCRYPTO_FUNCTIONS(FUNCTION)                                                    \
    FUNCTION(CRYPTO_memcmp)                                                              \
    FUNCTION(EVP_CIPHER_CTX_free)                                                        \
    FUNCTION(EVP_CIPHER_CTX_new)                                                         \
    FUNCTION(EVP_CIPHER_CTX_set_padding)                                                 \
    FUNCTION(EVP_CipherInit_ex)                                                          \
    FUNCTION(EVP_CipherUpdate)                                                           \
    FUNCTION(EVP_Digest)                                                                 \
    FUNCTION(EVP_DigestFinal_ex)                                                         \
    FUNCTION(EVP_DigestInit_ex)                                                          \
    FUNCTION(EVP_DigestUpdate)                                                           \
    FUNCTION(EVP_MD_CTX_free)                                                            \
    FUNCTION(EVP_MD_CTX_new)                                                             \
    FUNCTION(EVP_MD_size)                                                                \
    FUNCTION(EVP_aes_128_cbc)                                                            \
    FUNCTION(EVP_aes_128_ctr)                                                            \
    FUNCTION(EVP_aes_128_ecb)                                                            \
    FUNCTION(EVP_aes_128_xts)                                                            \
    FUNCTION(EVP_aes_192_cbc)                                                            \
    FUNCTION(EVP_aes_192_ctr)                                                            \
    FUNCTION(EVP_aes_192_ecb)                                                            \
    FUNCTION(EVP_aes_256_cbc)                                                            \
    FUNCTION(EVP_aes_256_ctr)                                                            \
    FUNCTION(EVP_aes_256_ecb)                                                            \
    FUNCTION(EVP_aes_256_xts)                                                            \
    FUNCTION(EVP_get_digestbyname)                                                       \
    FUNCTION(PKCS5_PBKDF2_HMAC)

/* Each function by its own name and type. */
typedef struct {
#define LIBCRYPTO_MEMBER(name) __typeof__(name) *name;
    LIBCRYPTO_FUNCTIONS(LIBCRYPTO_MEMBER)
#undef LIBCRYPTO_MEMBER
} Libcrypto;

/* Loads libcrypto, once for the process. Fails with QIMG_ERROR_UNSUPPORTED where it is
 * not installed, or where files can no longer be opened (a confined server). Threads:
 * any. */
bool libcrypto_load(GError **error);

/* The functions; loads them unless that was done. Where an error can be reported, call
 * libcrypto_load before: without libcrypto, this ends the process. Threads: any. */
const Libcrypto *libcrypto(void);
