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

/* Checks what the decoder leaves: that cipher, mode, hash and key length are supported,
 * that a slot is active, and that no count of iterations of active slots, nor their sum,
 * is above
 * @max_iterations. Errors: ENCRYPTED. */
bool luks_check(const LuksHeader *header, uint64_t max_iterations, GError **error);

/* Tries @passphrase on each active slot; returns the volume key (owned), or NULL: without
 * @error, no slot has this passphrase. @header has passed luks_check. Takes as long as
 * the header's iterations. */
QimgSecret *luks_unlock(const LuksHeader *header, const QimgSecret *passphrase,
                        LuksRead read, void *user, GError **error);

/* Merges @n_stripes stripes of key_out->n_bytes each, and hashes them between with @hash.
 * Errors: false without memory. Spec: encryption section 3.2. */
bool luks_merge(const char *hash, const uint8_t *stripes, unsigned n_stripes,
                QimgSecret *key_out);
