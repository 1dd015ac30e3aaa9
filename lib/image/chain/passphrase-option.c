/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading passphrases, without a copy outside of QimgSecret. */
#include "image/chain/passphrase-option.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/errors.h"
#include "crypt/luks-slots.h"

#define MAX_DEPTH 199u

/* Splits LAYER: from the start of @value; returns the rest. */
static const char *
split_depth(const char *value, int *depth_out)
{
    const char *colon = strchr(value, ':');
    g_autofree char *number = colon ? g_strndup(value, (gsize)(colon - value)) : NULL;
    guint64 depth = 0;

    *depth_out = KEYRING_ANY_DEPTH;
    if (!number || !g_ascii_string_to_unsigned(number, 10, 0, MAX_DEPTH, &depth, NULL))
        return value;
    *depth_out = (int)depth;
    return colon + 1;
}

/* Reads @fd to its end. */
static bool
add_passphrase_of(QimgKeyring *keyring, int fd, int depth, const char *option,
                  const char *value, GError **error)
{
    QimgSecret *buffer = qimg_secret_new(KEYRING_MAX_BYTES + 1);
    size_t n_bytes = 0;
    ssize_t n = 1;

    while (n > 0 && n_bytes < buffer->n_bytes) {
        do
            n = read(fd, buffer->bytes + n_bytes, buffer->n_bytes - n_bytes);
        while (n < 0 && errno == EINTR);
        n_bytes += n > 0 ? (size_t)n : 0;
    }
    if (n < 0)
        qimg_misuse(error, "%s=%s: cannot be read: %s", option, value, g_strerror(errno));
    else if (n_bytes > KEYRING_MAX_BYTES)
        qimg_misuse(error, "%s=%s: has more than %u bytes, and is no passphrase", option,
                    value, KEYRING_MAX_BYTES);
    else
        qimg_keyring_add(keyring, buffer->bytes, n_bytes, depth);
    qimg_secret_free(buffer);
    return n == 0 && n_bytes <= KEYRING_MAX_BYTES;
}

bool
option_add_passphrase_file(QimgKeyring *keyring, const char *value, GError **error)
{
    int depth;
    const char *path = split_depth(value, &depth);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    bool is_good;

    if (fd < 0)
        return qimg_misuse(error, "passphrase_file=%s: cannot be opened: %s", value,
                           g_strerror(errno));
    is_good = add_passphrase_of(keyring, fd, depth, "passphrase_file", value, error);
    close(fd);
    return is_good;
}

bool
option_add_passphrase_fd(QimgKeyring *keyring, const char *value, GError **error)
{
    int depth;
    const char *text = split_depth(value, &depth);
    guint64 fd = 0;

    if (!g_ascii_string_to_unsigned(text, 10, 0, INT_MAX, &fd, NULL))
        return qimg_misuse(error, "passphrase_fd=%s: is no number of a descriptor",
                           value);
    return add_passphrase_of(keyring, (int)fd, depth, "passphrase_fd", value, error);
}

bool
option_add_passphrase(QimgKeyring *keyring, const void *bytes, size_t n_bytes, int depth,
                      GError **error)
{
    if (n_bytes > KEYRING_MAX_BYTES || depth < KEYRING_ANY_DEPTH ||
        depth > (int)MAX_DEPTH)
        return qimg_misuse(error,
                           "a passphrase has at most %u bytes, and a layer from 0 to %u",
                           KEYRING_MAX_BYTES, MAX_DEPTH);
    qimg_keyring_add(keyring, bytes, n_bytes, depth);
    return true;
}

QimgSecret *
option_take_new_passphrase(const QimgKeyring *keyring, const char *path,
                           const char *option, GError **error)
{
    const QimgSecret *given = qimg_keyring_find(keyring, 0);
    QimgSecret *passphrase = given ? qimg_secret_copy(given->bytes, given->n_bytes)
                                   : qimg_keyring_ask(keyring, path, 0);

    if (passphrase && passphrase->n_bytes > 0)
        return passphrase;
    qimg_misuse(error, "%s: %s (give one with -o %s=FILE, or type it on a terminal)",
                option,
                passphrase ? "the passphrase is empty, which protects nothing"
                           : "no passphrase was given",
                option);
    qimg_secret_free(passphrase);
    return NULL;
}

bool
option_ends_in_newline(const QimgSecret *passphrase)
{
    return passphrase->n_bytes > 0 && passphrase->bytes[passphrase->n_bytes - 1] == '\n';
}

bool
option_parse_iter_time(const char *name, const char *value, unsigned *out, GError **error)
{
    guint64 n = 0;

    if (!g_ascii_string_to_unsigned(value, 10, 1, LUKS_MAX_ITER_TIME_MS, &n, NULL))
        return qimg_misuse(error, "%s=%s: is no number of milliseconds from 1 to %u",
                           name, value, LUKS_MAX_ITER_TIME_MS);
    *out = (unsigned)n;
    return true;
}
