/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unlocking: the passphrase opens the key material of a slot, whose stripes make the
 * volume key, whose digest the header has. */
#include "crypt/luks.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/errors.h"
#include "crypt/cipher.h"
#include "crypt/hash.h"
#include "crypt/libcrypto.h"

#define ITERATIONS_PER_MINUTE UINT64_C(60000000) /* of an ordinary core */

bool
luks_check_names(const char *cipher, const char *mode, const char *hash, size_t key_bytes,
                 GError **error)
{
    g_autofree char *shown = g_strescape(hash, "\"'");

    if (!libcrypto_load(error) || !qimg_cipher_check(cipher, mode, key_bytes, error))
        return false;
    if (!qimg_hash_find(hash))
        qimg_set_error(error, QIMG_ERROR_ENCRYPTED,
                       "LUKS hash: \"%s\" is not supported (convert the image with "
                       "qemu-img convert)",
                       shown);
    return qimg_hash_find(hash) != NULL;
}

bool
luks_check(const LuksHeader *header, uint64_t max_iterations, GError **error)
{
    uint64_t n_iterations = header->digest_iterations;
    bool is_active = false;

    if (!luks_check_names(header->cipher, header->mode, header->hash, header->key_bytes,
                          error))
        return false;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        is_active |= header->slots[i].is_active;
        n_iterations += header->slots[i].is_active ? header->slots[i].iterations : 0;
    }
    if (!is_active) {
        qimg_set_error(error, QIMG_ERROR_ENCRYPTED,
                       "LUKS key slots: none is active (the keys were erased: without a "
                       "copy of the header the data are lost)");
        return false;
    }
    if (n_iterations <= max_iterations)
        return true;
    qimg_set_error(
        error, QIMG_ERROR_ENCRYPTED,
        "LUKS iterations: %" G_GUINT64_FORMAT " would take some %" G_GUINT64_FORMAT
        " minutes (a hostile image may ask for this; if it is to be trusted, give -o "
        "max_iterations=%" G_GUINT64_FORMAT ")",
        (guint64)n_iterations, (guint64)(n_iterations / ITERATIONS_PER_MINUTE + 1),
        (guint64)n_iterations);
    return false;
}

/* H of the specification: hashes @bytes in blocks of the hash's length. */
static bool
diffuse(const EVP_MD *md, EVP_MD_CTX *context, uint8_t *bytes, size_t n_bytes)
{
    size_t hash_bytes = (size_t)libcrypto()->EVP_MD_size(md);
    uint8_t hash[EVP_MAX_MD_SIZE];
    bool is_good = true;

    for (size_t done = 0; is_good && done < n_bytes; done += hash_bytes) {
        size_t block_bytes = MIN(hash_bytes, n_bytes - done);
        qimg_be32 number = qimg_be32_set((uint32_t)(done / hash_bytes));

        is_good =
            libcrypto()->EVP_DigestInit_ex(context, md, NULL) == 1 &&
            libcrypto()->EVP_DigestUpdate(context, &number, sizeof number) == 1 &&
            libcrypto()->EVP_DigestUpdate(context, bytes + done, block_bytes) == 1 &&
            libcrypto()->EVP_DigestFinal_ex(context, hash, NULL) == 1;
        if (is_good)
            memcpy(bytes + done, hash, block_bytes);
    }
    explicit_bzero(hash, sizeof hash);
    return is_good;
}

bool
luks_merge(const char *hash, const uint8_t *stripes, unsigned n_stripes,
           QimgSecret *key_out)
{
    const EVP_MD *md = qimg_hash_find(hash);
    EVP_MD_CTX *context = libcrypto()->EVP_MD_CTX_new();
    size_t n_bytes = key_out->n_bytes;
    bool is_good = md && context;

    memset(key_out->bytes, 0, n_bytes);
    for (unsigned i = 0; is_good && i < n_stripes; i++) {
        for (size_t j = 0; j < n_bytes; j++)
            key_out->bytes[j] ^= stripes[i * n_bytes + j];
        is_good = i + 1 == n_stripes || diffuse(md, context, key_out->bytes, n_bytes);
    }
    libcrypto()->EVP_MD_CTX_free(context);
    return is_good;
}

static bool
derive(const LuksHeader *header, const QimgSecret *password, const uint8_t *salt,
       uint32_t iterations, uint8_t *out, size_t n_bytes, GError **error)
{
    if (libcrypto()->PKCS5_PBKDF2_HMAC(
            (const char *)password->bytes, (int)password->n_bytes, salt, LUKS_SALT_BYTES,
            (int)iterations, qimg_hash_find(header->hash), (int)n_bytes, out) == 1)
        return true;
    qimg_set_error(error, QIMG_ERROR_FAILED,
                   "libcrypto cannot derive a key with the hash %s", header->hash);
    return false;
}

bool
luks_derive(const LuksHeader *header, const QimgSecret *passphrase, const uint8_t *salt,
            uint32_t iterations, QimgSecret *key_out, GError **error)
{
    return derive(header, passphrase, salt, iterations, key_out->bytes, key_out->n_bytes,
                  error);
}

bool
luks_digest(const LuksHeader *header, const QimgSecret *key,
            uint8_t digest_out[LUKS_DIGEST_BYTES], GError **error)
{
    return derive(header, key, header->digest_salt, header->digest_iterations, digest_out,
                  LUKS_DIGEST_BYTES, error);
}

/* Whether @key is the volume key. */
static bool
has_digest(const LuksHeader *header, const QimgSecret *key)
{
    uint8_t digest[LUKS_DIGEST_BYTES];

    return luks_digest(header, key, digest, NULL) &&
           libcrypto()->CRYPTO_memcmp(digest, header->digest, sizeof digest) == 0;
}

bool
luks_try_slot(const LuksHeader *header, unsigned index, const QimgSecret *passphrase,
              LuksRead read, void *user, QimgSecret **key_out, GError **error)
{
    const LuksSlot *slot = &header->slots[index];
    QimgSecret *slot_key = qimg_secret_new(header->key_bytes);
    QimgSecret *material = qimg_secret_new(luks_material_bytes(header));
    QimgSecret *key = qimg_secret_new(header->key_bytes);
    QimgCipher *cipher = NULL;
    QimgErrno err = read(user, slot->material_offset, material->bytes, material->n_bytes);
    bool is_done = false;

    *key_out = NULL;
    if (err)
        qimg_set_error_errno(error, -err, NULL, "the LUKS key material cannot be read");
    else if (luks_derive(header, passphrase, slot->salt, slot->iterations, slot_key,
                         error))
        cipher = qimg_cipher_new(header->cipher, header->mode, slot_key, error);
    if (cipher) {
        is_done =
            qimg_cipher_decrypt(cipher, 0, material->bytes, material->n_bytes) == 0 &&
            luks_merge(header->hash, material->bytes, LUKS_STRIPES, key);
        if (!is_done)
            qimg_set_error_errno(error, ENOMEM, NULL, "the LUKS key slot");
        else if (has_digest(header, key))
            *key_out = g_steal_pointer(&key);
    }
    qimg_cipher_free(cipher);
    qimg_secret_free(slot_key);
    qimg_secret_free(material);
    qimg_secret_free(key);
    return is_done;
}

QimgSecret *
luks_unlock(const LuksHeader *header, const QimgSecret *passphrase, LuksRead read,
            void *user, GError **error)
{
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        QimgSecret *key = NULL;

        if (!header->slots[i].is_active)
            continue;
        if (!luks_try_slot(header, i, passphrase, read, user, &key, error))
            return NULL;
        if (key)
            return key;
    }
    return NULL;
}
