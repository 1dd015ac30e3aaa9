/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The encryption of a new image: its properties, and the making of its key. Spec:
 * encryption sections 3.3 and 7. */
#pragma once

#include "crypt/keyring.h"
#include "crypt/luks-slots.h"

typedef struct {
    bool is_on;
    bool has_details; /* other properties than the format were set */
    unsigned cipher_key_bytes;
    const char *iv_generator; /* static, like the names below */
    const char *iv_hash;
    const char *hash;
    unsigned iter_time_ms;
    QimgKeyring *passphrases; /* owned */
} CreateEncryption;

/* A new LUKS header. */
typedef struct {
    LuksHeader header;
    LuksNewSlot slot; /* the only active one, 0 */
    bool ends_in_newline;
} CreateKey;

/* Sets the defaults: none; AES-256, xts-plain64, sha256, 2 s. */
void create_encryption_init(CreateEncryption *encryption);
void create_encryption_clear(CreateEncryption *encryption);

/* Sets a property named encrypt.* or passphrase_*. Errors: USAGE. */
bool create_encryption_set(CreateEncryption *encryption, const char *name,
                           const char *value, GError **error);

static inline bool
create_encryption_is_on(const CreateEncryption *encryption)
{
    return encryption->is_on;
}

/* Checks combinations of properties. Errors: USAGE, ENCRYPTED. */
bool create_encryption_check(const CreateEncryption *encryption, GError **error);

/* Sets the layout of key_out->header, nothing else. */
void create_encryption_lay_out(const CreateEncryption *encryption, CreateKey *key_out);

/* Makes a volume key and the header that the passphrase opens; asks for that, if none was
 * given, about the new image @path. Takes as long as the properties say. Errors:
 * ENCRYPTED, USAGE, FAILED. */
bool create_encryption_make_key(const CreateEncryption *encryption, const char *path,
                                CreateKey *key_out, GError **error);

void create_key_clear(CreateKey *key);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CreateKey, create_key_clear)
