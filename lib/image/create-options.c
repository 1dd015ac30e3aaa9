/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The properties of a new image, by name. image/create.c and the format check
 * combinations of properties. */
#include "image/create-options.h"

#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "format/drivers.h"
#include "image/chain/option-value.h"
#include "image/chain/passphrase-option.h"

#define DEFAULT_CLUSTER_BITS   16u
#define DEFAULT_REFCOUNT_ORDER 4u

QimgCreate *
qimg_create_new(void)
{
    QimgCreate *create = g_new0(QimgCreate, 1);

    create->driver = &qimg_driver_qcow2;
    create->fields = (QimgCreateOptions){
        .version = 3,
        .cluster_bits = DEFAULT_CLUSTER_BITS,
        .refcount_order = DEFAULT_REFCOUNT_ORDER,
    };
    create->backing_options = qimg_options_new();
    create->backing_options->without_key = true;
    create_encryption_init(&create->encryption);
    create->notes = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(create->notes, NULL);
    return create;
}

void
qimg_create_free(QimgCreate *create)
{
    if (!create)
        return;
    g_free(create->backing_file);
    g_free(create->backing_fmt);
    g_free(create->data_file);
    create_encryption_clear(&create->encryption);
    qimg_options_free(create->backing_options);
    g_ptr_array_unref(create->notes);
    g_free(create);
}

const char *const *
qimg_create_get_notes(const QimgCreate *create)
{
    return (const char *const *)create->notes->pdata;
}

uint64_t
qimg_create_get_size_bytes(const QimgCreate *create)
{
    return create->fields.size_bytes;
}

static bool
set_flag(const char *name, const char *value, bool *out, GError **error)
{
    static const char *const words[] = {"off", "on", NULL};
    int i = value ? option_find_word(name, value, words, error) : 1;

    if (i >= 0)
        *out = i == 1;
    return i >= 0;
}

static bool
set_text(const char *name, const char *value, char **out, GError **error)
{
    if (!*value)
        return qimg_misuse(error, "%s=: is empty", name);
    g_free(*out);
    *out = g_strdup(value);
    return true;
}

static bool
create_set_format(QimgCreate *create, const char *name, const char *value, GError **error)
{
    const QimgDriver *driver = qimg_driver_find(value);

    if (!driver || !driver->create) {
        g_autofree char *names = qimg_driver_names(true);

        return qimg_misuse(error, "%s=%s: is no format that can be made (give %s)", name,
                           value, names);
    }
    create->driver = driver;
    return true;
}

static bool
create_set_size(QimgCreate *create, const char *name, const char *value, GError **error)
{
    uint64_t bytes = 0;

    if (!qimg_parse_size(value, &bytes, error)) {
        g_prefix_error(error, "%s: ", name);
        return false;
    }
    if (!qimg_align_up(bytes, QIMG_SECTOR_BYTES, &create->fields.size_bytes))
        return qimg_misuse(error, "%s=%s: is too large", name, value);
    create->has_size = true;
    return true;
}

static bool
set_backing_file(QimgCreate *create, const char *name, const char *value, GError **error)
{
    return set_text(name, value, &create->backing_file, error);
}

static bool
set_backing_fmt(QimgCreate *create, const char *name, const char *value, GError **error)
{
    return set_text(name, value, &create->backing_fmt, error);
}

static bool
set_data_file(QimgCreate *create, const char *name, const char *value, GError **error)
{
    return set_text(name, value, &create->data_file, error);
}

static bool
set_cluster_size(QimgCreate *create, const char *name, const char *value, GError **error)
{
    uint64_t bytes = 0;

    if (!qimg_parse_size(value, &bytes, NULL) || bytes == 0 || (bytes & (bytes - 1)))
        return qimg_misuse(error, "%s=%s: is no power of two", name, value);
    create->fields.cluster_bits = (unsigned)__builtin_ctzll(bytes);
    return true;
}

static bool
set_table_size(QimgCreate *create, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"2", "4", "8", "16", NULL};
    int i = option_find_word(name, value, words, error);

    if (i >= 0)
        create->fields.table_clusters = 2u << i;
    return i >= 0;
}

static bool
set_version(QimgCreate *create, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"2", "3", NULL};
    static const char *const compat_words[] = {"0.10", "1.1", NULL};
    int i = option_find_word(name, value, *name == 'c' ? compat_words : words, error);

    if (i >= 0)
        create->fields.version = 2 + (unsigned)i;
    return i >= 0;
}

static bool
set_refcount_bits(QimgCreate *create, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"1", "2", "4", "8", "16", "32", "64", NULL};
    int i = option_find_word(name, value, words, error);

    if (i >= 0)
        create->fields.refcount_order = (unsigned)i;
    return i >= 0;
}

static bool
set_compression(QimgCreate *create, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {
        [QIMG_CODEC_DEFLATE] = "zlib", [QIMG_CODEC_ZSTD] = "zstd", NULL};
    int i = option_find_word(name, value, words, error);

    if (i >= 0)
        create->fields.compression = (QimgCodec)i;
    return i >= 0;
}

static bool
set_extended_l2(QimgCreate *create, const char *name, const char *value, GError **error)
{
    return set_flag(name, value, &create->fields.extended_l2, error);
}

static bool
set_lazy(QimgCreate *create, const char *name, const char *value, GError **error)
{
    return set_flag(name, value, &create->fields.lazy_refcounts, error);
}

static bool
set_data_file_raw(QimgCreate *create, const char *name, const char *value, GError **error)
{
    return set_flag(name, value, &create->fields.data_file_raw, error);
}

gboolean
qimg_preallocation_find(const char *name, QimgPreallocation *out, GError **error)
{
    static const char *const words[] = {
        [QIMG_PREALLOCATION_OFF] = "off",
        [QIMG_PREALLOCATION_METADATA] = "metadata",
        [QIMG_PREALLOCATION_FALLOC] = "falloc",
        [QIMG_PREALLOCATION_FULL] = "full",
        NULL,
    };
    int i = option_find_word("preallocation", name, words, error);

    if (i >= 0)
        *out = (QimgPreallocation)i;
    return i >= 0;
}

static bool
set_preallocation(QimgCreate *create, const char *name, const char *value, GError **error)
{
    (void)name;
    return qimg_preallocation_find(value, &create->fields.preallocation, error);
}

static bool
set_force(QimgCreate *create, const char *name, const char *value, GError **error)
{
    (void)name, (void)value, (void)error;
    create->replaces = true;
    return true;
}

static bool
set_no_check(QimgCreate *create, const char *name, const char *value, GError **error)
{
    (void)name, (void)value, (void)error;
    create->no_check = true;
    return true;
}

static bool
set_opening(QimgCreate *create, const char *name, const char *value, GError **error)
{
    return qimg_options_set(create->backing_options, name, value, error);
}

static bool
set_encryption(QimgCreate *create, const char *name, const char *value, GError **error)
{
    return create_encryption_set(&create->encryption, name, value, error);
}

gboolean
qimg_create_add_passphrase(QimgCreate *create, const void *bytes, size_t n_bytes,
                           GError **error)
{
    return option_add_passphrase(create->encryption.passphrases, bytes, n_bytes, 0,
                                 error);
}

void
qimg_create_set_ask_passphrase(QimgCreate *create, QimgAskPassphrase ask, void *user)
{
    qimg_keyring_set_ask(create->encryption.passphrases, ask, user);
}

/* The formats that have a property. */
enum {
    RAW = 1 << 0,
    QED = 1 << 1,
    QCOW2 = 1 << 2,
    ALL = RAW | QED | QCOW2,
};

static const struct {
    const char *name;
    TakesValue takes_value;
    unsigned formats;
    bool (*set)(QimgCreate *create, const char *name, const char *value, GError **error);
} table[] = {
    {"format", VALUE, ALL, create_set_format},
    {"size", VALUE, ALL, create_set_size},
    {"preallocation", VALUE, ALL, set_preallocation},
    {"force", NO_VALUE, ALL, set_force},
    {"backing_file", VALUE, QCOW2 | QED, set_backing_file},
    {"backing_fmt", VALUE, QCOW2 | QED, set_backing_fmt},
    {"no_check", NO_VALUE, QCOW2 | QED, set_no_check},
    {"cluster_size", VALUE, QCOW2 | QED, set_cluster_size},
    {"table_size", VALUE, QED, set_table_size},
    {"version", VALUE, QCOW2, set_version},
    {"compat", VALUE, QCOW2, set_version},
    {"refcount_bits", VALUE, QCOW2, set_refcount_bits},
    {"compression_type", VALUE, QCOW2, set_compression},
    {"extended_l2", MAYBE_VALUE, QCOW2, set_extended_l2},
    {"lazy_refcounts", MAYBE_VALUE, QCOW2, set_lazy},
    {"data_file", VALUE, QCOW2, set_data_file},
    {"data_file_raw", MAYBE_VALUE, QCOW2, set_data_file_raw},
    {"encrypt.format", VALUE, QCOW2, set_encryption},
    {"encrypt.cipher-alg", VALUE, QCOW2, set_encryption},
    {"encrypt.cipher-mode", VALUE, QCOW2, set_encryption},
    {"encrypt.ivgen-alg", VALUE, QCOW2, set_encryption},
    {"encrypt.ivgen-hash-alg", VALUE, QCOW2, set_encryption},
    {"encrypt.hash-alg", VALUE, QCOW2, set_encryption},
    {"encrypt.iter-time", VALUE, QCOW2, set_encryption},
    {"encrypt.key-secret", VALUE, QCOW2, set_encryption},
    {"passphrase_file", VALUE, QCOW2, set_encryption},
    {"passphrase_fd", VALUE, QCOW2, set_encryption},
    {"backing", VALUE, QCOW2 | QED, set_opening},
    {"backing_map", VALUE, QCOW2 | QED, set_opening},
    {"nolock", NO_VALUE, ALL, set_opening},
};

_Static_assert(G_N_ELEMENTS(table) <= 32, "QimgCreate.given has a bit for each property");

const char *
create_find_foreign_property(const QimgCreate *create)
{
    unsigned format = create->driver == &qimg_driver_raw   ? RAW
                      : create->driver == &qimg_driver_qed ? QED
                                                           : QCOW2;

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
        if ((create->given >> i & 1) && !(table[i].formats & format))
            return table[i].name;
    return NULL;
}

gboolean
qimg_create_set(QimgCreate *create, const char *name, const char *value, GError **error)
{
    size_t i = 0;

    while (i < G_N_ELEMENTS(table) && strcmp(table[i].name, name) != 0)
        i++;
    if (i == G_N_ELEMENTS(table))
        return qimg_misuse(error, "%s: is no property of a new image", name);
    if (!option_check_value(name, table[i].takes_value, value, error))
        return FALSE;
    create->given |= UINT32_C(1) << i;
    return table[i].set(create, name, value, error);
}
