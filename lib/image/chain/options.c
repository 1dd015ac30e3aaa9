/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options of opening an image, by name: one table for all front ends. */
#include <sched.h>
#include <string.h>

#include "base/errors.h"
#include "format/drivers.h"
#include "image/chain/option-value.h"
#include "image/chain/options.h"
#include "image/chain/passphrase-option.h"

#define DEFAULT_L2_CACHE_BYTES     (32 * QIMG_MIB)
#define DEFAULT_DATA_CACHE_BYTES   (16 * QIMG_MIB)
#define MIN_L2_CACHE_BYTES         (64 * QIMG_KIB)
#define DEFAULT_BITMAP_CACHE_BYTES (64 * QIMG_MIB)
#define MIN_BITMAP_CACHE_BYTES     (64 * QIMG_KIB)
#define MAX_CACHE_BYTES            (QIMG_MIB << 20)
#define MAX_THREADS                1024u
/* Significant digits behind the decimal point of a size: with all of them, and the
 * largest suffix, sums stay within 128 bits. */
#define MAX_FRACTION_UNIT UINT64_C(1000000000000000000)

unsigned
qimg_default_threads(void)
{
    cpu_set_t set;
    unsigned n_cores =
        sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;

    return MAX(n_cores, 2);
}

QimgOptions *
qimg_options_new(void)
{
    QimgOptions *options = g_new0(QimgOptions, 1);

    options->policy = qimg_open_policy_new();
    options->l2_cache_bytes = DEFAULT_L2_CACHE_BYTES;
    options->data_cache_bytes = DEFAULT_DATA_CACHE_BYTES;
    options->bitmap_cache_bytes = DEFAULT_BITMAP_CACHE_BYTES;
    options->n_threads = qimg_default_threads();
    options->is_growable = true;
    options->keyring = qimg_keyring_new();
    return options;
}

void
qimg_options_free(QimgOptions *options)
{
    if (!options)
        return;
    g_free(options->format);
    g_free(options->cow_path);
    qimg_open_policy_free(options->policy);
    qimg_keyring_free(options->keyring);
    g_free(options);
}

void
qimg_options_set_keeper(QimgOptions *options, QimgKeeper *keeper)
{
    options->keeper = keeper;
}

void
qimg_options_avoid_device(QimgOptions *options, dev_t device)
{
    qimg_open_policy_avoid_device(options->policy, device);
}

/* Parses the suffix of a size, which must be all of @text: as a shift, -1 if it is
 * invalid. */
static int
parse_size_suffix(const char *text)
{
    static const char suffixes[] = "BKMGTPE";
    const char *suffix = *text ? strchr(suffixes, g_ascii_toupper(*text)) : NULL;
    bool is_whole =
        suffix && (!text[1] || (suffix > suffixes && !strcmp(text + 1, "iB")));

    if (!*text)
        return 0;
    return is_whole ? 10 * (int)(suffix - suffixes) : -1;
}

/* False if @text is no size, or does not fit in 64 bits. */
static bool
parse_bytes(const char *text, uint64_t *bytes_out)
{
    unsigned __int128 bytes = 0, fraction = 0, fraction_unit = 1;
    int shift;

    if (!g_ascii_isdigit(*text))
        return false;
    for (; g_ascii_isdigit(*text) && bytes <= UINT64_MAX; text++)
        bytes = bytes * 10 + (unsigned)(*text - '0');
    if (*text == '.' && g_ascii_isdigit(text[1])) {
        for (text++; g_ascii_isdigit(*text) && fraction_unit < MAX_FRACTION_UNIT;
             text++) {
            fraction = fraction * 10 + (unsigned)(*text - '0');
            fraction_unit *= 10;
        }
    }
    shift = parse_size_suffix(text);
    /* Refuses a fraction of a byte. */
    if (bytes > UINT64_MAX || shift < 0 || (fraction_unit > 1 && shift == 0))
        return false;
    bytes = (bytes << shift) + ((fraction << shift) + fraction_unit / 2) / fraction_unit;
    if (bytes > UINT64_MAX)
        return false;
    *bytes_out = (uint64_t)bytes;
    return true;
}

gboolean
qimg_parse_size(const char *text, uint64_t *bytes_out, GError **error)
{
    if (parse_bytes(text, bytes_out))
        return TRUE;
    return qimg_misuse(
        error,
        "\"%s\" is no size (give a number of bytes, or one with K, M, G, T, P "
        "or E, like 1.5G, less than 16E)",
        text);
}

static bool
parse_size(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *out,
           GError **error)
{
    uint64_t bytes = 0;

    if (!parse_bytes(text, &bytes) || bytes < min || bytes > max)
        return qimg_misuse(error,
                           "%s=%s: not a number of bytes from %" G_GUINT64_FORMAT
                           " to %" G_GUINT64_FORMAT " (suffixes K, M, G and T work)",
                           name, text, (guint64)min, (guint64)max);
    *out = bytes;
    return true;
}

static bool
option_set_format(QimgOptions *options, const char *value, GError **error)
{
    if (!qimg_driver_find(value)) {
        g_autofree char *names = qimg_driver_names(false);

        return qimg_misuse(error, "format=%s: unknown format (give %s)", value, names);
    }
    g_free(options->format);
    options->format = g_strdup(value);
    return true;
}

static bool
set_backing(QimgOptions *options, const char *value, GError **error)
{
    return qimg_open_policy_set(options->policy, value, error);
}

static bool
set_backing_map(QimgOptions *options, const char *value, GError **error)
{
    return qimg_open_policy_add_map(options->policy, value, error);
}

static bool
set_l2_cache(QimgOptions *options, const char *value, GError **error)
{
    return parse_size("l2_cache", value, MIN_L2_CACHE_BYTES, MAX_CACHE_BYTES,
                      &options->l2_cache_bytes, error);
}

static bool
set_data_cache(QimgOptions *options, const char *value, GError **error)
{
    return parse_size("data_cache", value, 0, MAX_CACHE_BYTES, &options->data_cache_bytes,
                      error);
}

static bool
set_bitmap_cache(QimgOptions *options, const char *value, GError **error)
{
    return parse_size("bitmap_cache", value, MIN_BITMAP_CACHE_BYTES, MAX_CACHE_BYTES,
                      &options->bitmap_cache_bytes, error);
}

static bool
set_bitmaps(QimgOptions *options, const char *value, GError **error)
{
    if (strcmp(value, "keep") != 0 && strcmp(value, "drop") != 0)
        return qimg_misuse(error, "bitmaps=%s: unknown mode (give keep or drop)", value);
    options->drops_bitmaps = strcmp(value, "drop") == 0;
    return true;
}

static bool
option_set_threads(QimgOptions *options, const char *value, GError **error)
{
    guint64 n = 0;

    if (!g_ascii_string_to_unsigned(value, 10, 1, MAX_THREADS, &n, NULL))
        return qimg_misuse(error, "threads=%s: not a number from 1 to %u", value,
                           MAX_THREADS);
    options->n_threads = (unsigned)n;
    return true;
}

static bool
option_set_nolock(QimgOptions *options, const char *value, GError **error)
{
    (void)value, (void)error;
    options->no_lock = true;
    return true;
}

static bool
set_direct(QimgOptions *options, const char *value, GError **error)
{
    (void)value, (void)error;
    options->is_direct = true;
    return true;
}

static bool
set_inspect(QimgOptions *options, const char *value, GError **error)
{
    (void)value, (void)error;
    options->inspect = true;
    return true;
}

static bool
set_nokey(QimgOptions *options, const char *value, GError **error)
{
    (void)value, (void)error;
    options->without_key = true;
    return true;
}

static bool
set_rw(QimgOptions *options, const char *value, GError **error)
{
    (void)value, (void)error;
    options->is_writable = true;
    return true;
}

static bool
option_set_cow(QimgOptions *options, const char *value, GError **error)
{
    if (value && !*value)
        return qimg_misuse(
            error, "cow=: names no file (give the overlay's name, or cow alone for "
                   "one that vanishes)");
    g_free(options->cow_path);
    options->cow_path = g_strdup(value);
    options->is_cow = true;
    return true;
}

static bool
set_growable(QimgOptions *options, const char *value, GError **error)
{
    (void)value, (void)error;
    options->is_growable = true;
    return true;
}

static bool
set_nogrowable(QimgOptions *options, const char *value, GError **error)
{
    (void)value, (void)error;
    options->is_growable = false;
    return true;
}

static bool
set_discard(QimgOptions *options, const char *value, GError **error)
{
    static const char *const words[] = {
        [DISCARD_UNMAP] = "unmap",
        [DISCARD_ZERO] = "zero",
        [DISCARD_IGNORE] = "ignore",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        if (strcmp(value, words[i]) == 0) {
            options->discard = (DiscardMode)i;
            return true;
        }
    }
    return qimg_misuse(error, "discard=%s: unknown mode (give unmap, zero or ignore)",
                       value);
}

static bool
set_passphrase_file(QimgOptions *options, const char *value, GError **error)
{
    return option_add_passphrase_file(options->keyring, value, error);
}

static bool
set_passphrase_fd(QimgOptions *options, const char *value, GError **error)
{
    return option_add_passphrase_fd(options->keyring, value, error);
}

gboolean
qimg_options_add_passphrase(QimgOptions *options, const void *bytes, size_t n_bytes,
                            int depth, GError **error)
{
    return option_add_passphrase(options->keyring, bytes, n_bytes, depth, error);
}

gboolean
qimg_options_has_passphrase(const QimgOptions *options)
{
    return qimg_keyring_has_passphrase(options->keyring);
}

void
qimg_options_set_ask_passphrase(QimgOptions *options, QimgAskPassphrase ask, void *user)
{
    qimg_keyring_set_ask(options->keyring, ask, user);
}

static bool
set_max_iterations(QimgOptions *options, const char *value, GError **error)
{
    guint64 n = 0;

    if (!g_ascii_string_to_unsigned(value, 10, 1, G_MAXINT64, &n, NULL))
        return qimg_misuse(error, "max_iterations=%s: not a number from 1", value);
    qimg_keyring_set_max_iterations(options->keyring, n);
    return true;
}

static const struct {
    const char *name;
    TakesValue takes_value;
    bool (*set)(QimgOptions *options, const char *value, GError **error);
} table[] = {
    {"format", VALUE, option_set_format},
    {"backing", VALUE, set_backing},
    {"backing_map", VALUE, set_backing_map},
    {"l2_cache", VALUE, set_l2_cache},
    {"data_cache", VALUE, set_data_cache},
    {"threads", VALUE, option_set_threads},
    {"nolock", NO_VALUE, option_set_nolock},
    {"direct", NO_VALUE, set_direct},
    {"inspect", NO_VALUE, set_inspect},
    {"nokey", NO_VALUE, set_nokey},
    {"rw", NO_VALUE, set_rw},
    {"cow", MAYBE_VALUE, option_set_cow},
    {"growable", NO_VALUE, set_growable},
    {"nogrowable", NO_VALUE, set_nogrowable},
    {"discard", VALUE, set_discard},
    {"passphrase_file", VALUE, set_passphrase_file},
    {"passphrase_fd", VALUE, set_passphrase_fd},
    {"max_iterations", VALUE, set_max_iterations},
    {"bitmaps", VALUE, set_bitmaps},
    {"bitmap_cache", VALUE, set_bitmap_cache},
};

static int
find_option(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
        if (strcmp(table[i].name, name) == 0)
            return (int)i;
    return -1;
}

char **
qimg_options_split(const char *list)
{
    GPtrArray *elements = g_ptr_array_new();
    g_autoptr(GString) element = g_string_new(NULL);

    for (;; list++) {
        if (*list == '\\' && list[1]) {
            g_string_append_c(element, *++list);
        } else if (*list != ',' && *list != '\0') {
            g_string_append_c(element, *list);
        } else {
            if (element->len > 0)
                g_ptr_array_add(elements, g_strdup(element->str));
            g_string_truncate(element, 0);
            if (*list == '\0')
                break;
        }
    }
    g_ptr_array_add(elements, NULL);
    return (char **)g_ptr_array_free(elements, FALSE);
}

gboolean
qimg_options_has(const char *name)
{
    return find_option(name) >= 0;
}

char **
qimg_options_get_named_places(const QimgOptions *options)
{
    return qimg_open_policy_get_places(options->policy);
}

gboolean
qimg_options_set(QimgOptions *options, const char *name, const char *value,
                 GError **error)
{
    int i = find_option(name);

    if (i < 0)
        return qimg_misuse(error, "%s: no such option", name);
    if (!option_check_value(name, table[i].takes_value, value, error))
        return FALSE;
    return table[i].set(options, value, error);
}
