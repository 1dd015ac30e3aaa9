/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sector ciphers over libcrypto.
 *
 * A context is used by one thread at a time. They are kept in slots: a thread takes the
 * first one that it finds, from a slot of its own on, and gives it back to a free slot;
 * so each of N busy threads soon has one, and no request allocates. */
#include "crypt/cipher.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/endian.h"
#include "base/errors.h"
#include "crypt/hash.h"
#include "crypt/libcrypto.h"

#define BLOCK_BYTES     16u
#define N_BLOCKS        (QIMG_SECTOR_BYTES / BLOCK_BYTES)
#define N_CONTEXT_SLOTS 64u
#define MAX_MODE_BYTES  32u
/* x^128 = x^7 + x^2 + x + 1: what XTS adds when a tweak overflows. */
#define XTS_REDUCTION 0x87u

typedef enum { MODE_XTS, MODE_CBC, MODE_CTR, MODE_ECB } CipherMode;
typedef enum { IV_NONE, IV_PLAIN, IV_PLAIN64, IV_ESSIV } IvKind;

/* The meaning of a cipher's names. */
typedef struct {
    CipherMode mode;
    IvKind iv;
    const EVP_CIPHER *data;   /* NULL: XTS made of @tweak */
    const EVP_CIPHER *tweak;  /* ECB, of XTS with keys that libcrypto has no XTS for */
    const EVP_MD *essiv_hash; /* IV_ESSIV */
    const EVP_CIPHER *essiv;  /* IV_ESSIV: ECB with the hash as its key */
} Scheme;

typedef struct {
    EVP_CIPHER_CTX *data;  /* of the sector, or of its blocks */
    EVP_CIPHER_CTX *tweak; /* NULL unless Scheme.tweak */
    EVP_CIPHER_CTX *essiv; /* NULL unless IV_ESSIV */
} Context;

struct QimgCipher {
    Scheme scheme;         /* const */
    QimgSecret *key;       /* const, owned */
    QimgSecret *essiv_key; /* const, owned; NULL unless IV_ESSIV */
    Context *_Atomic contexts[2][N_CONTEXT_SLOTS]; /* atomic: to decrypt, to encrypt */
};

/* ECB of AES with a key of @key_bytes; NULL: there is none. */
static const EVP_CIPHER *
aes_ecb(size_t key_bytes)
{
    switch (key_bytes) {
    case 16:
        return libcrypto()->EVP_aes_128_ecb();
    case 24:
        return libcrypto()->EVP_aes_192_ecb();
    case 32:
        return libcrypto()->EVP_aes_256_ecb();
    default:
        return NULL;
    }
}

static const EVP_CIPHER *
aes_cbc_or_ctr(size_t key_bytes, bool is_cbc)
{
    switch (key_bytes) {
    case 16:
        return is_cbc ? libcrypto()->EVP_aes_128_cbc() : libcrypto()->EVP_aes_128_ctr();
    case 24:
        return is_cbc ? libcrypto()->EVP_aes_192_cbc() : libcrypto()->EVP_aes_192_ctr();
    case 32:
        return is_cbc ? libcrypto()->EVP_aes_256_cbc() : libcrypto()->EVP_aes_256_ctr();
    default:
        return NULL;
    }
}

static bool
choose_mode(const char *mode, size_t key_bytes, Scheme *out)
{
    static const struct {
        const char *name;
        CipherMode mode;
    } rows[] = {
        {"xts", MODE_XTS}, {"cbc", MODE_CBC}, {"ctr", MODE_CTR}, {"ecb", MODE_ECB}};
    unsigned i = 0;

    while (i < G_N_ELEMENTS(rows) && strcmp(rows[i].name, mode) != 0)
        i++;
    if (i == G_N_ELEMENTS(rows))
        return false;
    out->mode = rows[i].mode;
    switch (out->mode) {
    case MODE_XTS:
        out->data = key_bytes == 32   ? libcrypto()->EVP_aes_128_xts()
                    : key_bytes == 64 ? libcrypto()->EVP_aes_256_xts()
                                      : NULL;
        out->tweak = key_bytes == 48 ? libcrypto()->EVP_aes_192_ecb() : NULL;
        break;
    case MODE_CBC:
    case MODE_CTR:
        out->data = aes_cbc_or_ctr(key_bytes, out->mode == MODE_CBC);
        break;
    case MODE_ECB:
        out->data = aes_ecb(key_bytes);
        break;
    }
    return out->data || out->tweak;
}

/* A hash behind plain or plain64 has no meaning. Spec: encryption section 3.1. */
static bool
choose_iv(const char *generator, const char *hash, Scheme *out)
{
    if (out->mode == MODE_ECB && !generator)
        return true;
    if (!generator)
        return false;
    if (strcmp(generator, "plain") == 0)
        out->iv = IV_PLAIN;
    else if (strcmp(generator, "plain64") == 0)
        out->iv = IV_PLAIN64;
    else if (strcmp(generator, "essiv") == 0 && hash)
        out->iv = IV_ESSIV;
    else
        return false;
    if (out->iv == IV_ESSIV) {
        out->essiv_hash = qimg_hash_find(hash);
        out->essiv = out->essiv_hash
                         ? aes_ecb((size_t)libcrypto()->EVP_MD_size(out->essiv_hash))
                         : NULL;
        if (!out->essiv)
            return false;
    }
    if (out->mode == MODE_ECB)
        out->iv = IV_NONE;
    return true;
}

static bool
choose_scheme(const char *name, const char *mode, size_t key_bytes, Scheme *out,
              GError **error)
{
    g_auto(GStrv) parts = g_strsplit(mode, "-", 2);
    g_auto(GStrv) iv = g_strsplit(parts[0] && parts[1] ? parts[1] : "", ":", 2);
    g_autofree char *shown_name = g_strescape(name, "\"'");
    g_autofree char *shown_mode = g_strescape(mode, "\"'");

    *out = (Scheme){0};
    if (strcmp(name, "aes") == 0 && parts[0] && choose_mode(parts[0], key_bytes, out) &&
        choose_iv(iv[0], iv[0] ? iv[1] : NULL, out))
        return true;
    qimg_set_error(
        error, QIMG_ERROR_ENCRYPTED,
        "LUKS cipher: %s-%s with a key of %zu bytes is not supported (AES with xts, "
        "cbc, ctr or ecb and plain, plain64 or essiv is; convert the image with "
        "qemu-img convert)",
        shown_name, shown_mode, key_bytes);
    return false;
}

bool
qimg_cipher_check(const char *name, const char *mode, size_t key_bytes, GError **error)
{
    Scheme scheme;

    return choose_scheme(name, mode, key_bytes, &scheme, error);
}

static void
context_free(Context *context)
{
    if (!context)
        return;
    libcrypto()->EVP_CIPHER_CTX_free(context->data);
    libcrypto()->EVP_CIPHER_CTX_free(context->tweak);
    libcrypto()->EVP_CIPHER_CTX_free(context->essiv);
    g_free(context);
}

/* A context of @type with @key; NULL without memory. */
static EVP_CIPHER_CTX *
make_evp(const EVP_CIPHER *type, const uint8_t *key, bool encrypts)
{
    EVP_CIPHER_CTX *evp = libcrypto()->EVP_CIPHER_CTX_new();

    if (evp &&
        libcrypto()->EVP_CipherInit_ex(evp, type, NULL, key, NULL, encrypts) == 1 &&
        libcrypto()->EVP_CIPHER_CTX_set_padding(evp, 0) == 1)
        return evp;
    libcrypto()->EVP_CIPHER_CTX_free(evp);
    return NULL;
}

static Context *
context_new(const QimgCipher *cipher, bool encrypts)
{
    const Scheme *scheme = &cipher->scheme;
    const uint8_t *key = cipher->key->bytes;
    Context *context = g_new0(Context, 1);

    context->data = make_evp(scheme->data ? scheme->data : scheme->tweak, key, encrypts);
    if (scheme->tweak)
        context->tweak = make_evp(scheme->tweak, key + cipher->key->n_bytes / 2, true);
    if (scheme->essiv)
        context->essiv = make_evp(scheme->essiv, cipher->essiv_key->bytes, true);
    if (context->data && (!scheme->tweak || context->tweak) &&
        (!scheme->essiv || context->essiv))
        return context;
    context_free(context);
    return NULL;
}

/* Where this thread looks first. */
static unsigned
first_slot(void)
{
    static atomic_uint n_threads;
    static _Thread_local unsigned mine; /* slot + 1 */

    if (mine == 0)
        mine = atomic_fetch_add_explicit(&n_threads, 1, memory_order_relaxed) %
                   N_CONTEXT_SLOTS +
               1;
    return mine - 1;
}

static Context *
take_context(QimgCipher *cipher, bool encrypts)
{
    unsigned first = first_slot();

    for (unsigned i = 0; i < N_CONTEXT_SLOTS; i++) {
        Context *_Atomic *slot =
            &cipher->contexts[encrypts][(first + i) % N_CONTEXT_SLOTS];
        Context *context = NULL;

        if (atomic_load_explicit(slot, memory_order_relaxed))
            context = atomic_exchange_explicit(slot, NULL, memory_order_acquire);
        if (context)
            return context;
    }
    return context_new(cipher, encrypts);
}

static void
return_context(QimgCipher *cipher, bool encrypts, Context *context)
{
    unsigned first = first_slot();

    for (unsigned i = 0; i < N_CONTEXT_SLOTS; i++) {
        Context *none = NULL;

        if (atomic_compare_exchange_strong_explicit(
                &cipher->contexts[encrypts][(first + i) % N_CONTEXT_SLOTS], &none,
                context, memory_order_release, memory_order_relaxed))
            return;
    }
    context_free(context);
}

QimgCipher *
qimg_cipher_new(const char *name, const char *mode, const QimgSecret *key, GError **error)
{
    QimgCipher *cipher;
    Scheme scheme;

    if (!choose_scheme(name, mode, key->n_bytes, &scheme, error))
        return NULL;
    cipher = g_new0(QimgCipher, 1);
    cipher->scheme = scheme;
    cipher->key = qimg_secret_copy(key->bytes, key->n_bytes);
    if (scheme.essiv) {
        unsigned n_bytes = (unsigned)libcrypto()->EVP_MD_size(scheme.essiv_hash);

        /* All key bytes, of XTS both halves. Spec: encryption section 3.3. */
        cipher->essiv_key = qimg_secret_new(n_bytes);
        if (libcrypto()->EVP_Digest(key->bytes, key->n_bytes, cipher->essiv_key->bytes,
                                    &n_bytes, scheme.essiv_hash, NULL) != 1) {
            qimg_set_error_errno(error, ENOMEM, NULL, "the key cannot be hashed");
            qimg_cipher_free(cipher);
            return NULL;
        }
    }
    return cipher;
}

void
qimg_cipher_free(QimgCipher *cipher)
{
    if (!cipher)
        return;
    for (unsigned i = 0; i < N_CONTEXT_SLOTS; i++) {
        context_free(atomic_load(&cipher->contexts[false][i]));
        context_free(atomic_load(&cipher->contexts[true][i]));
    }
    qimg_secret_free(cipher->key);
    qimg_secret_free(cipher->essiv_key);
    g_free(cipher);
}

/* Runs @evp over @n_bytes, from @source to @target, which may be the same. */
static bool
run_evp(EVP_CIPHER_CTX *evp, const uint8_t *source, uint8_t *target, size_t n_bytes)
{
    int n_out = 0;

    return libcrypto()->EVP_CipherUpdate(evp, target, &n_out, source, (int)n_bytes) ==
               1 &&
           (size_t)n_out == n_bytes;
}

/* Spec: encryption section 3.3. */
static bool
make_iv(const Scheme *scheme, const Context *context, uint64_t sector,
        uint8_t iv[BLOCK_BYTES])
{
    qimg_le64 number = qimg_le64_set(scheme->iv == IV_PLAIN ? (uint32_t)sector : sector);

    memset(iv, 0, BLOCK_BYTES);
    memcpy(iv, &number, sizeof number);
    return scheme->iv != IV_ESSIV || run_evp(context->essiv, iv, iv, BLOCK_BYTES);
}

static void
xor_sector(const uint8_t *a, const uint8_t *b, uint8_t *out)
{
    for (size_t i = 0; i < QIMG_SECTOR_BYTES; i++)
        out[i] = a[i] ^ b[i];
}

/* XTS of block ciphers: each block between two additions of its tweak, which is doubled
 * from block to block in GF(2^128). Spec: encryption section 3.3. */
static bool
run_xts(const Context *context, const uint8_t iv[BLOCK_BYTES], const uint8_t *source,
        uint8_t *target)
{
    uint8_t tweaks[QIMG_SECTOR_BYTES];

    memcpy(tweaks, iv, BLOCK_BYTES);
    if (!run_evp(context->tweak, tweaks, tweaks, BLOCK_BYTES))
        return false;
    for (unsigned i = 1; i < N_BLOCKS; i++) {
        const uint8_t *last = tweaks + (size_t)(i - 1) * BLOCK_BYTES;
        uint8_t *next = tweaks + (size_t)i * BLOCK_BYTES;
        unsigned carry = 0;

        for (unsigned j = 0; j < BLOCK_BYTES; j++) {
            next[j] = (uint8_t)(last[j] << 1 | carry);
            carry = last[j] >> 7;
        }
        next[0] ^= carry ? XTS_REDUCTION : 0;
    }
    xor_sector(source, tweaks, target);
    if (!run_evp(context->data, target, target, QIMG_SECTOR_BYTES))
        return false;
    xor_sector(target, tweaks, target);
    return true;
}

static bool
crypt_sector(const Scheme *scheme, const Context *context, uint64_t sector,
             const uint8_t *source, uint8_t *target)
{
    uint8_t iv[BLOCK_BYTES];

    if (scheme->iv == IV_NONE)
        return run_evp(context->data, source, target, QIMG_SECTOR_BYTES);
    if (!make_iv(scheme, context, sector, iv))
        return false;
    if (scheme->tweak)
        return run_xts(context, iv, source, target);
    return libcrypto()->EVP_CipherInit_ex(context->data, NULL, NULL, NULL, iv, -1) == 1 &&
           run_evp(context->data, source, target, QIMG_SECTOR_BYTES);
}

static QimgErrno
crypt_sectors(QimgCipher *cipher, bool encrypts, uint64_t sector, const uint8_t *source,
              uint8_t *target, size_t n_bytes)
{
    Context *context = take_context(cipher, encrypts);
    bool is_good = context != NULL;

    for (size_t done = 0; is_good && done < n_bytes; done += QIMG_SECTOR_BYTES)
        is_good = crypt_sector(&cipher->scheme, context, sector++, source + done,
                               target + done);
    if (context)
        return_context(cipher, encrypts, context);
    return is_good ? 0 : -ENOMEM;
}

QimgErrno
qimg_cipher_decrypt(QimgCipher *cipher, uint64_t sector, uint8_t *bytes, size_t n_bytes)
{
    return crypt_sectors(cipher, false, sector, bytes, bytes, n_bytes);
}

QimgErrno
qimg_cipher_encrypt(QimgCipher *cipher, uint64_t sector, uint8_t *bytes, size_t n_bytes)
{
    return crypt_sectors(cipher, true, sector, bytes, bytes, n_bytes);
}

QimgErrno
qimg_cipher_encrypt_to(QimgCipher *cipher, uint64_t sector, const uint8_t *source,
                       uint8_t *target, size_t n_bytes)
{
    return crypt_sectors(cipher, true, sector, source, target, n_bytes);
}
