/* SPDX-License-Identifier: GPL-2.0-or-later */
/* crypt/: ciphers, IVs and key merging against known answers, and which names are
 * refused. Spec: encryption sections 2, 3.3 and 3.4. */
#include "crypt/cipher.h"

#include <string.h>

#include "base/checked.h"
#include "crypt/luks.h"
#include "test-util.h"

static QimgSecret *
secret_of_hex(const char *hex)
{
    QimgSecret *secret = qimg_secret_new(strlen(hex) / 2);

    for (size_t i = 0; i < secret->n_bytes; i++)
        secret->bytes[i] = (uint8_t)(g_ascii_xdigit_value(hex[2 * i]) << 4 |
                                     g_ascii_xdigit_value(hex[2 * i + 1]));
    return secret;
}

/* The bytes 00, 01, 02, ... */
static QimgSecret *
counting(size_t n_bytes)
{
    QimgSecret *secret = qimg_secret_new(n_bytes);

    for (size_t i = 0; i < n_bytes; i++)
        secret->bytes[i] = (uint8_t)i;
    return secret;
}

static void
assert_hex(const uint8_t *bytes, const char *hex)
{
    QimgSecret *wanted = secret_of_hex(hex);

    g_assert_cmpmem(bytes, wanted->n_bytes, wanted->bytes, wanted->n_bytes);
    qimg_secret_free(wanted);
}

#define LEGACY_KEY "61626331323300000000000000000000"
#define VOLUME_KEY                                                                       \
    "c80ab0054653667cef51cd5b59d2f7f123bfdc7d017f54750c914c9d426fc8b33f6501b3e35a467271" \
    "c360096260c1f5b1b3704f6ee104bf8818e05427c1af2a"

static const struct {
    const char *mode;
    const char *key;  /* NULL: counting */
    size_t key_bytes; /* of a counting one */
    uint64_t sector;
    uint8_t plain;
    const char *first;  /* of the encrypted sector */
    const char *last16; /* NULL: not known */
} rows[] = {
    {"cbc-plain64", LEGACY_KEY, 0, 0, 0xa5, "73c05ce2c3db64b102a90b6f31705622",
     "374c44aaac056b9e5e76b5271360ff0f"},
    {"cbc-plain64", LEGACY_KEY, 0, 128, 0xa5, "644fe34669d03fbd55ac599b728ad18a",
     "2ef5c0ddbb0b143f7b673a4586ba8cda"},
    {"cbc-plain64", LEGACY_KEY, 0, UINT64_C(8589934592), 0xa5,
     "66861c5ff81067b9a37efbf6b95bf54e", "4c2769d27a45fcaaf5a10f035d0ddcaf"},
    {"xts-plain64", VOLUME_KEY, 0, 4736, 0xa5, "e0766b1e656e6868dadfa6536e56f497",
     "946a4bd6fff1aa98ef71b0594c711624"},
    {"xts-plain64", NULL, 48, 5, 0,
     "ae16423fcba31f20d4b4b4150d4fbf4f187c7c40f5d088b471a85d7235531694", NULL},
    {"xts-essiv:sha256", NULL, 64, 5, 0,
     "ce705b0e06bd7af63cab4e872fdd1bdc7193c0b307c67eca6a95daabfcdf4cbe", NULL},
    {"ctr-plain64", NULL, 16, 5, 0, "789dc76ccb52ce1c3db90ecb357af60e",
     "ba13d5d359563a1e4e7c587bf87bbc73"},
};

static void
test_known_answers(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        QimgSecret *key =
            rows[i].key ? secret_of_hex(rows[i].key) : counting(rows[i].key_bytes);
        GError *error = NULL;
        QimgCipher *cipher = qimg_cipher_new("aes", rows[i].mode, key, &error);
        uint8_t sectors[2 * QIMG_SECTOR_BYTES];

        g_test_message("row %u: %s", i, rows[i].mode);
        g_assert_no_error(error);
        memset(sectors, rows[i].plain, sizeof sectors);
        g_assert_cmpint(
            qimg_cipher_encrypt(cipher, rows[i].sector, sectors, sizeof sectors), ==, 0);
        assert_hex(sectors, rows[i].first);
        if (rows[i].last16)
            assert_hex(sectors + QIMG_SECTOR_BYTES - 16, rows[i].last16);
        g_assert_cmpint(memcmp(sectors, sectors + QIMG_SECTOR_BYTES, 16), !=, 0);
        /* Each sector for itself. */
        g_assert_cmpint(qimg_cipher_decrypt(cipher, rows[i].sector + 1,
                                            sectors + QIMG_SECTOR_BYTES,
                                            QIMG_SECTOR_BYTES),
                        ==, 0);
        g_assert_cmpint(
            qimg_cipher_decrypt(cipher, rows[i].sector, sectors, QIMG_SECTOR_BYTES), ==,
            0);
        for (size_t j = 0; j < sizeof sectors; j++)
            g_assert_cmpuint(sectors[j], ==, rows[i].plain);
        qimg_cipher_free(cipher);
        qimg_secret_free(key);
    }
}

/* The sector whose blocks are all alike encrypts to E(0 ^ IV) in CBC: the IV is seen by
 * ECB decryption of the first block. */
static void
assert_iv(const char *mode, QimgSecret *key, uint64_t sector, const char *iv)
{
    g_autofree char *cbc = g_strconcat("cbc-", mode, NULL);
    QimgCipher *chained = qimg_cipher_new("aes", cbc, key, NULL);
    QimgCipher *single = qimg_cipher_new("aes", "ecb", key, NULL);
    uint8_t bytes[QIMG_SECTOR_BYTES] = {0};

    g_assert_nonnull(chained);
    g_assert_nonnull(single);
    g_assert_cmpint(qimg_cipher_encrypt(chained, sector, bytes, sizeof bytes), ==, 0);
    g_assert_cmpint(qimg_cipher_decrypt(single, 0, bytes, sizeof bytes), ==, 0);
    assert_hex(bytes, iv);
    qimg_cipher_free(chained);
    qimg_cipher_free(single);
    qimg_secret_free(key);
}

static void
test_ivs(void)
{
    assert_iv("plain", counting(32), UINT64_C(0x100000005),
              "05000000000000000000000000000000");
    assert_iv("plain64", counting(32), UINT64_C(0x100000005),
              "05000000010000000000000000000000");
    assert_iv("essiv:sha256", counting(32), 5, "1d3cc413699a46f844afd0adc387f14e");
    assert_iv("essiv:sha256", counting(16), 5, "95cb2429690590ef31fec63972e51424");
    assert_iv("essiv:md5", counting(32), 5, "c686dc6b6945aaf337b1317dc434c3ed");
}

static const struct {
    const char *name;
    const char *mode;
    size_t key_bytes;
    bool is_good;
} names[] = {
    {"aes", "xts-plain64", 32, true},
    {"aes", "xts-plain64", 48, true},
    {"aes", "xts-plain64", 64, true},
    {"aes", "xts-plain64", 16, false},
    {"aes", "xts-plain64", 63, false},
    {"aes", "xts-plain64:sha256", 64, true},
    {"aes", "cbc-plain", 24, true},
    {"aes", "cbc-plain", 64, false},
    {"aes", "ctr-plain64", 24, true},
    {"aes", "ecb", 16, true},
    {"aes", "ecb-plain64", 32, true},
    {"aes", "ecb-plain64", 48, false},
    {"aes", "xts", 64, false},
    {"aes", "cbc", 16, false},
    {"aes", "", 16, false},
    {"aes", "-", 16, false},
    {"aes", "xts-", 64, false},
    {"aes", "XTS-plain64", 64, false},
    {"AES", "xts-plain64", 64, false},
    {"serpent", "xts-plain64", 64, false},
    {"twofish", "cbc-plain64", 32, false},
    {"cast5", "cbc-plain64", 16, false},
    {"aes", "cbc-essiv", 32, false},
    {"aes", "cbc-essiv:", 32, false},
    {"aes", "cbc-essiv:sha1", 32, false},
    {"aes", "cbc-essiv:sha512", 32, false},
    {"aes", "cbc-essiv:SHA256", 32, false},
    {"aes", "cbc-benbi", 32, false},
    {"aes", "cbc-null", 32, false},
    {"aes", "gcm-plain64", 32, false},
    {"", "", 0, false},
};

static void
test_names(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GError) error = NULL;

        g_test_message("%s-%s, %zu", names[i].name, names[i].mode, names[i].key_bytes);
        g_assert_cmpint(
            qimg_cipher_check(names[i].name, names[i].mode, names[i].key_bytes, &error),
            ==, names[i].is_good);
        if (!names[i].is_good)
            g_assert_error(error, QIMG_ERROR, QIMG_ERROR_ENCRYPTED);
    }
}

static void
assert_merge(const char *hash, size_t n_bytes, const char *wanted)
{
    QimgSecret *stripes = counting(3 * n_bytes);
    QimgSecret *key = qimg_secret_new(n_bytes);

    g_assert_true(luks_merge(hash, stripes->bytes, 3, key));
    assert_hex(key->bytes, wanted);
    qimg_secret_free(stripes);
    qimg_secret_free(key);
}

static void
test_merge(void)
{
    assert_merge("sha1", 16, "16b15c38ed50f2e3657a117fc6e3f985");
    assert_merge("sha256", 16, "0fa6a714d55010dc0f8da9d73da26074");
    assert_merge("sha256", 64,
                 "df5e8769cfd393130a8fcad4bc8220cabd700bc2776e41d98ea3f6206cb501a5"
                 "ebe0d691d82d95f53b5d67b10e7309aa893e27ecacbc6ada28e98f768af16f68");
}

static LuksHeader
header_with(uint32_t digest_iterations, uint32_t iterations, unsigned n_active)
{
    LuksHeader h = {.cipher = "aes",
                    .mode = "xts-plain64",
                    .hash = "sha256",
                    .key_bytes = 64,
                    .digest_iterations = digest_iterations};

    for (unsigned i = 0; i < n_active; i++)
        h.slots[i] = (LuksSlot){.is_active = true, .iterations = iterations};
    return h;
}

/* Headers that would take too long are refused first, also by their sum. */
static void
test_cost(void)
{
    static const struct {
        uint32_t digest_iterations, iterations;
        unsigned n_active;
        bool is_good;
    } costs[] = {
        {1000, 2000, 1, true},     {1, 99999999, 1, true},    {1, 100000000, 1, false},
        {UINT32_MAX, 1, 1, false}, {1, UINT32_MAX, 8, false}, {1, 12500000, 8, false},
        {1, 12000000, 8, true},    {1, 1, 0, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(costs); i++) {
        LuksHeader h = header_with(costs[i].digest_iterations, costs[i].iterations,
                                   costs[i].n_active);
        g_autoptr(GError) error = NULL;

        g_test_message("row %u", i);
        g_assert_cmpint(luks_check(&h, LUKS_MAX_ITERATIONS, &error), ==,
                        costs[i].is_good);
        if (!costs[i].is_good)
            g_assert_error(error, QIMG_ERROR, QIMG_ERROR_ENCRYPTED);
    }
}

static void
test_unknown_hash(void)
{
    LuksHeader h = header_with(1000, 1000, 1);

    strcpy(h.hash, "whirlpool");
    g_assert_false(luks_check(&h, LUKS_MAX_ITERATIONS, NULL));
    strcpy(h.hash, "SHA256"); /* libcrypto would take it */
    g_assert_false(luks_check(&h, LUKS_MAX_ITERATIONS, NULL));
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/cipher/known-answers", test_known_answers);
    g_test_add_func("/cipher/ivs", test_ivs);
    g_test_add_func("/cipher/names", test_names);
    g_test_add_func("/luks/merge", test_merge);
    g_test_add_func("/luks/cost", test_cost);
    g_test_add_func("/luks/unknown-hash", test_unknown_hash);
    return g_test_run();
}
