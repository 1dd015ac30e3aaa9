/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which passphrase is tried on which layer. */
#include "crypt/keyring.h"

#include <string.h>

#include "base/errors.h"
#include "crypt/libcrypto.h"

/* Spec: encryption section 2. */
#define LEGACY_KEY_BYTES 16u
#define LEGACY_CIPHER    "aes"
#define LEGACY_MODE      "cbc-plain64"

typedef struct {
    QimgSecret *secret; /* owned */
    int depth;          /* KEYRING_ANY_DEPTH: of any layer */
} Passphrase;

struct QimgKeyring {
    GArray *passphrases; /* Passphrase */
    QimgAskPassphrase ask;
    void *ask_user;
    uint64_t max_iterations;
};

static void
passphrase_clear(void *passphrase)
{
    qimg_secret_free(((Passphrase *)passphrase)->secret);
}

QimgKeyring *
qimg_keyring_new(void)
{
    QimgKeyring *keyring = g_new0(QimgKeyring, 1);

    keyring->passphrases = g_array_new(FALSE, FALSE, sizeof(Passphrase));
    g_array_set_clear_func(keyring->passphrases, passphrase_clear);
    keyring->max_iterations = LUKS_MAX_ITERATIONS;
    return keyring;
}

void
qimg_keyring_free(QimgKeyring *keyring)
{
    g_array_unref(keyring->passphrases);
    g_free(keyring);
}

void
qimg_keyring_add(QimgKeyring *keyring, const void *bytes, size_t n_bytes, int depth)
{
    Passphrase passphrase = {.secret = qimg_secret_copy(bytes, n_bytes), .depth = depth};

    g_array_append_val(keyring->passphrases, passphrase);
}

bool
qimg_keyring_has_passphrase(const QimgKeyring *keyring)
{
    return keyring->passphrases->len > 0;
}

void
qimg_keyring_set_ask(QimgKeyring *keyring, QimgAskPassphrase ask, void *user)
{
    keyring->ask = ask;
    keyring->ask_user = user;
}

void
qimg_keyring_set_max_iterations(QimgKeyring *keyring, uint64_t n)
{
    keyring->max_iterations = n;
}

uint64_t
qimg_keyring_get_max_iterations(const QimgKeyring *keyring)
{
    return keyring->max_iterations;
}

unsigned
qimg_keyring_count(const QimgKeyring *keyring)
{
    return keyring->passphrases->len;
}

QimgSecret *
qimg_keyring_ask(const QimgKeyring *keyring, const char *path, unsigned n_asked)
{
    QimgSecret *buffer, *answer = NULL;
    gssize n_bytes;

    if (!keyring->ask)
        return NULL;
    buffer = qimg_secret_new(KEYRING_MAX_BYTES);
    n_bytes =
        keyring->ask(path, n_asked, buffer->bytes, buffer->n_bytes, keyring->ask_user);
    if (n_bytes >= 0 && (size_t)n_bytes <= buffer->n_bytes)
        answer = qimg_secret_copy(buffer->bytes, (size_t)n_bytes);
    qimg_secret_free(buffer);
    return answer;
}

static void
set_no_key(GError **error, const char *method, unsigned depth, unsigned n_tried,
           bool has_newline)
{
    const char *hint = has_newline
                           ? "; one ends in a newline, which counts: make its file "
                             "without one"
                           : "";

    if (n_tried == 0)
        qimg_set_error(error, QIMG_ERROR_ENCRYPTED,
                       "is encrypted (%s), and no passphrase was given for it (give -o "
                       "passphrase_file=FILE or passphrase_file=%u:FILE)",
                       method, depth);
    else
        qimg_set_error(
            error, QIMG_ERROR_ENCRYPTED,
            "is encrypted (%s), and no key slot opens with the passphrase (give "
            "the right one with -o passphrase_file=FILE%s)",
            method, hint);
}

/* A search for the key of one layer. */
typedef struct {
    const LuksHeader *header;
    LuksRead read;
    void *user;
    GError *error;
    unsigned n_tried;
    bool has_newline;
} Search;

static QimgSecret *
try_passphrase(Search *search, const QimgSecret *passphrase)
{
    search->n_tried++;
    search->has_newline |=
        passphrase->n_bytes > 0 && passphrase->bytes[passphrase->n_bytes - 1] == '\n';
    return luks_unlock(search->header, passphrase, search->read, search->user,
                       &search->error);
}

/* Tries the passphrases that are for exactly @depth. */
static QimgSecret *
try_given(const QimgKeyring *keyring, Search *search, int depth)
{
    QimgSecret *key = NULL;

    for (guint i = 0; i < keyring->passphrases->len && !key && !search->error; i++) {
        const Passphrase *p = &g_array_index(keyring->passphrases, Passphrase, i);

        if (p->depth == depth)
            key = try_passphrase(search, p->secret);
    }
    return key;
}

static QimgSecret *
try_answers(const QimgKeyring *keyring, Search *search, const char *path)
{
    QimgSecret *key = NULL;
    QimgSecret *answer;
    unsigned n_asked = 0;

    while (!key && !search->error &&
           (answer = qimg_keyring_ask(keyring, path, n_asked++))) {
        key = try_passphrase(search, answer);
        qimg_secret_free(answer);
    }
    return key;
}

QimgSecret *
qimg_keyring_unlock_luks(const QimgKeyring *keyring, const LuksHeader *header,
                         unsigned depth, const char *path, LuksRead read, void *user,
                         GError **error)
{
    Search search = {.header = header, .read = read, .user = user};
    QimgSecret *key;

    if (!luks_check(header, keyring->max_iterations, error))
        return NULL;
    key = try_given(keyring, &search, (int)depth);
    if (!key && !search.error)
        key = try_given(keyring, &search, KEYRING_ANY_DEPTH);
    if (!key && !search.error)
        key = try_answers(keyring, &search, path);
    if (search.error)
        g_propagate_error(error, search.error);
    else if (!key)
        set_no_key(error, "luks", depth, search.n_tried, search.has_newline);
    return key;
}

QimgCipher *
qimg_keyring_open_luks(const QimgKeyring *keyring, const LuksHeader *header,
                       unsigned depth, const char *path, LuksRead read, void *user,
                       GError **error)
{
    QimgSecret *key =
        qimg_keyring_unlock_luks(keyring, header, depth, path, read, user, error);
    QimgCipher *cipher =
        key ? qimg_cipher_new(header->cipher, header->mode, key, error) : NULL;

    qimg_secret_free(key);
    return cipher;
}

/* The first passphrase of exactly @depth; NULL: none. */
static const QimgSecret *
find_of(const QimgKeyring *keyring, int depth)
{
    for (guint i = 0; i < keyring->passphrases->len; i++) {
        const Passphrase *p = &g_array_index(keyring->passphrases, Passphrase, i);

        if (p->depth == depth)
            return p->secret;
    }
    return NULL;
}

const QimgSecret *
qimg_keyring_find(const QimgKeyring *keyring, int depth)
{
    const QimgSecret *secret = find_of(keyring, depth);

    return secret ? secret : find_of(keyring, KEYRING_ANY_DEPTH);
}

QimgCipher *
qimg_keyring_open_aes(const QimgKeyring *keyring, unsigned depth, const char *path,
                      GError **error)
{
    /* A passphrase without a layer is for the top one: trying it tells nothing. */
    const QimgSecret *given =
        depth == 0 ? qimg_keyring_find(keyring, 0) : find_of(keyring, (int)depth);
    QimgSecret *answer = given ? NULL : qimg_keyring_ask(keyring, path, 0);
    const QimgSecret *passphrase = given ? given : answer;
    QimgCipher *cipher = NULL;

    if (passphrase && libcrypto_load(error)) {
        QimgSecret *key = qimg_secret_new(LEGACY_KEY_BYTES);

        memcpy(key->bytes, passphrase->bytes, MIN(passphrase->n_bytes, LEGACY_KEY_BYTES));
        cipher = qimg_cipher_new(LEGACY_CIPHER, LEGACY_MODE, key, error);
        qimg_secret_free(key);
    } else if (!passphrase) {
        set_no_key(error, "aes", depth, 0, false);
    }
    qimg_secret_free(answer);
    return cipher;
}
