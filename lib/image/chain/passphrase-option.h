/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options of encryption that several commands share: passphrase_file and passphrase_fd,
 * and those of new key slots. */
#pragma once

#include <glib.h>

#include "crypt/keyring.h"

/* Adds to @keyring the content of the file that @value names, [LAYER:]FILE, as it is: a
 * final newline counts. Errors: USAGE. */
bool option_add_passphrase_file(QimgKeyring *keyring, const char *value, GError **error);

/* As option_add_passphrase_file, for [LAYER:]N; reads the descriptor to its end. */
bool option_add_passphrase_fd(QimgKeyring *keyring, const char *value, GError **error);

/* As qimg_options_add_passphrase. */
bool option_add_passphrase(QimgKeyring *keyring, const void *bytes, size_t n_bytes,
                           int depth, GError **error);

/* The passphrase for a new key slot of @path, owned: the one of @keyring, or the answer
 * to its question. NULL with @error: USAGE if there is none, with the advice to give
 * @option; or if it is empty. */
QimgSecret *option_take_new_passphrase(const QimgKeyring *keyring, const char *path,
                                       const char *option, GError **error);

/* Whether the last byte is a newline, which is often meant to be none of it. */
bool option_ends_in_newline(const QimgSecret *passphrase);

/* The number of milliseconds of encrypt.iter-time. Errors: USAGE. */
bool option_parse_iter_time(const char *name, const char *value, unsigned *out,
                            GError **error);
