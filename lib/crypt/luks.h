/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding the volume key of a LUKS header. Spec: encryption section 3.2. */
#pragma once

#include <glib.h>

#include "codec/luks-header.h"
#include "crypt/secret.h"

/* More iterations in one key slot would take minutes. */
#define LUKS_MAX_ITERATIONS UINT32_C(100000000)

/* Reads @n_bytes at @offset from the start of the header. Errors: of the storage. */
typedef QimgErrno (*LuksRead)(void *user, uint64_t offset, uint8_t *bytes,
                              size_t n_bytes);

/* Whether cipher, mode, hash and key length are supported, and go together. Errors:
 * ENCRYPTED. */
bool luks_check_names(const char *cipher, const char *mode, const char *hash,
                      size_t key_bytes, GError **error);

/* Checks what the decoder leaves: that cipher, mode, hash and key length are supported,
 * that a slot is active, and that no count of iterations of active slots, nor their sum,
 * is above
 * @max_iterations. Errors: ENCRYPTED. */
bool luks_check(const LuksHeader *header, uint64_t max_iterations, GError **error);

/* Tries @passphrase on the active slot @index: *@key_out is the volume key (owned), or
 * NULL if the passphrase is another. False with @error: of the storage, FAILED. */
bool luks_try_slot(const LuksHeader *header, unsigned index, const QimgSecret *passphrase,
                   LuksRead read, void *user, QimgSecret **key_out, GError **error);

/* Tries @passphrase on each active slot; returns the volume key (owned), or NULL: without
 * @error, no slot has this passphrase. @header has passed luks_check. Takes as long as
 * the header's iterations. */
QimgSecret *luks_unlock(const LuksHeader *header, const QimgSecret *passphrase,
                        LuksRead read, void *user, GError **error);

/* Merges @n_stripes stripes of key_out->n_bytes each, and hashes them between with @hash.
 * Errors: false without memory. Spec: encryption section 3.2. */
bool luks_merge(const char *hash, const uint8_t *stripes, unsigned n_stripes,
                QimgSecret *key_out);

/* Derives the key of a slot, of key_out->n_bytes, from its passphrase. Errors: FAILED. */
bool luks_derive(const LuksHeader *header, const QimgSecret *passphrase,
                 const uint8_t *salt, uint32_t iterations, QimgSecret *key_out,
                 GError **error);

/* The digest of the volume key @key, by the salt and the iterations of @header. Errors:
 * FAILED. */
bool luks_digest(const LuksHeader *header, const QimgSecret *key,
                 uint8_t digest_out[LUKS_DIGEST_BYTES], GError **error);
