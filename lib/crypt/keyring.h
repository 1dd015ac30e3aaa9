/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The passphrases that a user has given, and the question for more. Spec: encryption
 * section 7. */
#pragma once

#include "codec/luks-header.h"
#include "crypt/cipher.h"
#include "crypt/luks.h"
#include "qimg.h"

typedef struct QimgKeyring QimgKeyring;

#define KEYRING_MAX_BYTES 8192u /* of a passphrase */
#define KEYRING_ANY_DEPTH (-1)  /* for each layer */

/* An empty one. Free with qimg_keyring_free. Not thread-safe, except for the two calls
 * that make a cipher. */
QimgKeyring *qimg_keyring_new(void);
void qimg_keyring_free(QimgKeyring *keyring);

/* Adds a copy of a passphrase; @depth: of its layer, or KEYRING_ANY_DEPTH. */
void qimg_keyring_add(QimgKeyring *keyring, const void *bytes, size_t n_bytes, int depth);

bool qimg_keyring_has_passphrase(const QimgKeyring *keyring);

/* Sets the function that is asked when no passphrase fits; NULL: none. */
void qimg_keyring_set_ask(QimgKeyring *keyring, QimgAskPassphrase ask, void *user);

/* The passphrase of exactly @depth, else the first one of any; NULL: none. Borrowed. */
const QimgSecret *qimg_keyring_find(const QimgKeyring *keyring, int depth);

/* Asks the question about @path for the (@n_asked + 1)-th time. Returns the answer,
 * owned; NULL: there is none. */
QimgSecret *qimg_keyring_ask(const QimgKeyring *keyring, const char *path,
                             unsigned n_asked);

unsigned qimg_keyring_count(const QimgKeyring *keyring);

/* See luks_check. */
void qimg_keyring_set_max_iterations(QimgKeyring *keyring, uint64_t n);
uint64_t qimg_keyring_get_max_iterations(const QimgKeyring *keyring);

/* As qimg_keyring_open_luks: returns the volume key, owned. */
QimgSecret *qimg_keyring_unlock_luks(const QimgKeyring *keyring, const LuksHeader *header,
                                     unsigned depth, const char *path, LuksRead read,
                                     void *user, GError **error);

/* The cipher of the LUKS volume with @header, of the layer @depth with the file @path,
 * for which the passphrases of that depth are tried, then those of any, then the answers
 * to the question. NULL with @error: ENCRYPTED. May take seconds. Threads: any. */
QimgCipher *qimg_keyring_open_luks(const QimgKeyring *keyring, const LuksHeader *header,
                                   unsigned depth, const char *path, LuksRead read,
                                   void *user, GError **error);

/* The cipher of an image with the legacy method AES, whose key is the passphrase of that
 * depth, or, for the top layer, the first one of any; nothing tells whether it is right.
 * Spec: encryption section 2. NULL with @error: ENCRYPTED. Threads: any. */
QimgCipher *qimg_keyring_open_aes(const QimgKeyring *keyring, unsigned depth,
                                  const char *path, GError **error);
