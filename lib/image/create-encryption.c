/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/create-encryption.h"

#include <string.h>

#include "base/errors.h"
#include "image/chain/option-value.h"
#include "image/chain/passphrase-option.h"

#define CIPHER_NAME "aes"

void
create_encryption_init(CreateEncryption *e)
{
    *e = (CreateEncryption){
        .cipher_key_bytes = 32,
        .iv_generator = "plain64",
        .iv_hash = "sha256",
        .hash = "sha256",
        .iter_time_ms = LUKS_DEFAULT_ITER_TIME_MS,
        .passphrases = qimg_keyring_new(),
    };
}

void
create_encryption_clear(CreateEncryption *e)
{
    qimg_keyring_free(e->passphrases);
}

void
create_key_clear(CreateKey *key)
{
    luks_new_slot_clear(&key->slot);
}

static bool
encrypt_set_format(CreateEncryption *e, const char *name, const char *value,
                   GError **error)
{
    static const char *const words[] = {"luks", NULL};

    if (strcmp(value, "aes") == 0)
        return qimg_misuse(error,
                           "%s=aes: is not made any more, since it protects badly and "
                           "tells no wrong passphrase (give luks)",
                           name);
    e->is_on = option_find_word(name, value, words, error) >= 0;
    return e->is_on;
}

static bool
set_cipher(CreateEncryption *e, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"aes-128", "aes-192", "aes-256", NULL};
    int i = option_find_word(name, value, words, error);

    if (i >= 0)
        e->cipher_key_bytes = 16 + 8 * (unsigned)i;
    return i >= 0;
}

static bool
check_mode(CreateEncryption *e, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"xts", NULL};

    (void)e;
    return option_find_word(name, value, words, error) >= 0;
}

/* Sets *@out to @value, one of @words. */
static bool
set_one_of(const char *name, const char *value, const char *const *words,
           const char **out, GError **error)
{
    int i = option_find_word(name, value, words, error);

    if (i >= 0)
        *out = words[i];
    return i >= 0;
}

static bool
set_iv(CreateEncryption *e, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"plain", "plain64", "essiv", NULL};

    return set_one_of(name, value, words, &e->iv_generator, error);
}

static bool
set_iv_hash(CreateEncryption *e, const char *name, const char *value, GError **error)
{
    /* As long as a key of AES. Spec: encryption section 3.3. */
    static const char *const words[] = {"sha256", "md5", "sm3", NULL};

    return set_one_of(name, value, words, &e->iv_hash, error);
}

static bool
set_hash(CreateEncryption *e, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"sha256",    "sha1", "sha224", "sha384", "sha512",
                                        "ripemd160", "md5",  "sm3",    NULL};

    return set_one_of(name, value, words, &e->hash, error);
}

static bool
set_iter_time(CreateEncryption *e, const char *name, const char *value, GError **error)
{
    return option_parse_iter_time(name, value, &e->iter_time_ms, error);
}

static bool
refuse_key_secret(CreateEncryption *e, const char *name, const char *value,
                  GError **error)
{
    (void)e;
    return qimg_misuse(error,
                       "%s=%s: is qemu-img's; there are no secret objects here (give "
                       "passphrase_file=FILE or passphrase_fd=N)",
                       name, value);
}

static bool
create_add_passphrase_file(CreateEncryption *e, const char *name, const char *value,
                           GError **error)
{
    (void)name;
    return option_add_passphrase_file(e->passphrases, value, error);
}

static bool
create_add_passphrase_fd(CreateEncryption *e, const char *name, const char *value,
                         GError **error)
{
    (void)name;
    return option_add_passphrase_fd(e->passphrases, value, error);
}

bool
create_encryption_set(CreateEncryption *e, const char *name, const char *value,
                      GError **error)
{
    static const struct {
        const char *name;
        bool (*set)(CreateEncryption *e, const char *name, const char *value,
                    GError **error);
    } rows[] = {
        {"encrypt.format", encrypt_set_format},
        {"encrypt.cipher-alg", set_cipher},
        {"encrypt.cipher-mode", check_mode},
        {"encrypt.ivgen-alg", set_iv},
        {"encrypt.ivgen-hash-alg", set_iv_hash},
        {"encrypt.hash-alg", set_hash},
        {"encrypt.iter-time", set_iter_time},
        {"encrypt.key-secret", refuse_key_secret},
        {"passphrase_file", create_add_passphrase_file},
        {"passphrase_fd", create_add_passphrase_fd},
    };
    size_t i = 0;

    while (i < G_N_ELEMENTS(rows) && strcmp(rows[i].name, name) != 0)
        i++;
    g_assert(i < G_N_ELEMENTS(rows));
    e->has_details |= i > 0;
    return rows[i].set(e, name, value, error);
}

/* "xts-plain64", "xts-essiv:sha256": owned. */
static char *
make_mode(const CreateEncryption *e)
{
    bool has_hash = strcmp(e->iv_generator, "essiv") == 0;

    return g_strconcat("xts-", e->iv_generator, has_hash ? ":" : "",
                       has_hash ? e->iv_hash : "", NULL);
}

static unsigned
key_bytes_of(const CreateEncryption *e)
{
    return 2 * e->cipher_key_bytes; /* XTS has two keys */
}

bool
create_encryption_check(const CreateEncryption *e, GError **error)
{
    g_autofree char *mode = make_mode(e);

    if (!e->is_on)
        return !e->has_details ||
               qimg_misuse(error, "encrypt.format: is missing (with other properties of "
                                  "the encryption, or a passphrase, give "
                                  "encrypt.format=luks)");
    if (qimg_keyring_count(e->passphrases) > 1)
        return qimg_misuse(error, "passphrase_file: was given twice (a new image has one "
                                  "passphrase; qimg amend adds others)");
    return luks_check_names(CIPHER_NAME, mode, e->hash, key_bytes_of(e), error);
}

void
create_encryption_lay_out(const CreateEncryption *e, CreateKey *key_out)
{
    key_out->header.key_bytes = key_bytes_of(e);
    luks_header_lay_out(&key_out->header);
}

bool
create_encryption_make_key(const CreateEncryption *e, const char *path,
                           CreateKey *key_out, GError **error)
{
    g_autofree char *mode = make_mode(e);
    const LuksParameters parameters = {
        .cipher = CIPHER_NAME,
        .mode = mode,
        .hash = e->hash,
        .key_bytes = key_bytes_of(e),
        .iter_time_ms = e->iter_time_ms,
    };
    QimgSecret *passphrase =
        option_take_new_passphrase(e->passphrases, path, "passphrase_file", error);
    QimgSecret *key = NULL;
    bool is_made = false;

    if (passphrase)
        key = luks_make_header(&parameters, &key_out->header, error);
    if (key) {
        is_made = luks_make_slot(&key_out->header, 0, key, passphrase, e->iter_time_ms,
                                 &key_out->slot, error);
        key_out->ends_in_newline = option_ends_in_newline(passphrase);
    }
    qimg_secret_free(key);
    qimg_secret_free(passphrase);
    if (is_made)
        key_out->header.slots[0] = key_out->slot.slot;
    return is_made;
}
