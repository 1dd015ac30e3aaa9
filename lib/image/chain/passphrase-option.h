/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options passphrase_file and passphrase_fd. */
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
