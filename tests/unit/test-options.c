/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/chain/options.c: each option, its limits and its error. */
#include "image/chain/options.h"
#include "test-util.h"

#define L2_RANGE                                                                         \
    ": not a number of bytes from 65536 to 1099511627776 (suffixes K, M, G and T work)"
#define DATA_RANGE                                                                       \
    ": not a number of bytes from 0 to 1099511627776 (suffixes K, M, G and T work)"

typedef struct {
    const char *name;
    const char *value;
    int code;
    const char *error; /* NULL: accepted */
    uint64_t number;   /* the resulting l2_cache, data_cache or threads */
} Row;

static const Row rows[] = {
    {"format", "qcow2", 0, NULL, 0},
    {"format", "raw", 0, NULL, 0},
    {"format", "qed", 0, NULL, 0},
    {"format", "vmdk", QIMG_ERROR_USAGE,
     "format=vmdk: unknown format (give qcow2, qed, qcow, luks or raw)", 0},
    {"format", "", QIMG_ERROR_USAGE,
     "format=: unknown format (give qcow2, qed, qcow, luks or raw)", 0},
    {"format", NULL, QIMG_ERROR_USAGE, "format: needs a value", 0},
    {"l2_cache", "65536", 0, NULL, 65536},
    {"l2_cache", "64K", 0, NULL, 65536},
    {"l2_cache", "1m", 0, NULL, 1 << 20},
    {"l2_cache", "2G", 0, NULL, UINT64_C(2) << 30},
    {"l2_cache", "1T", 0, NULL, UINT64_C(1) << 40},
    {"l2_cache", "65535", QIMG_ERROR_USAGE, "l2_cache=65535" L2_RANGE, 0},
    {"l2_cache", "63k", QIMG_ERROR_USAGE, "l2_cache=63k" L2_RANGE, 0},
    {"l2_cache", "2T", QIMG_ERROR_USAGE, "l2_cache=2T" L2_RANGE, 0},
    {"l2_cache", "1099511627777", QIMG_ERROR_USAGE, "l2_cache=1099511627777" L2_RANGE, 0},
    {"l2_cache", "18446744073709551616", QIMG_ERROR_USAGE,
     "l2_cache=18446744073709551616" L2_RANGE, 0},
    {"l2_cache", "18014398509481985K", QIMG_ERROR_USAGE,
     "l2_cache=18014398509481985K" L2_RANGE, 0},
    {"l2_cache", "-1", QIMG_ERROR_USAGE, "l2_cache=-1" L2_RANGE, 0},
    {"l2_cache", "+65536", QIMG_ERROR_USAGE, "l2_cache=+65536" L2_RANGE, 0},
    {"l2_cache", " 65536", QIMG_ERROR_USAGE, "l2_cache= 65536" L2_RANGE, 0},
    {"l2_cache", "65536 ", QIMG_ERROR_USAGE, "l2_cache=65536 " L2_RANGE, 0},
    {"l2_cache", "1MB", QIMG_ERROR_USAGE, "l2_cache=1MB" L2_RANGE, 0},
    {"l2_cache", "1KK", QIMG_ERROR_USAGE, "l2_cache=1KK" L2_RANGE, 0},
    {"l2_cache", "0x10000", QIMG_ERROR_USAGE, "l2_cache=0x10000" L2_RANGE, 0},
    {"l2_cache", "K", QIMG_ERROR_USAGE, "l2_cache=K" L2_RANGE, 0},
    {"l2_cache", "", QIMG_ERROR_USAGE, "l2_cache=" L2_RANGE, 0},
    {"l2_cache", NULL, QIMG_ERROR_USAGE, "l2_cache: needs a value", 0},
    {"data_cache", "0", 0, NULL, 0},
    {"data_cache", "16M", 0, NULL, 16 << 20},
    {"data_cache", "x", QIMG_ERROR_USAGE, "data_cache=x" DATA_RANGE, 0},
    {"threads", "1", 0, NULL, 1},
    {"threads", "1024", 0, NULL, 1024},
    {"threads", "0", QIMG_ERROR_USAGE, "threads=0: not a number from 1 to 1024", 0},
    {"threads", "1025", QIMG_ERROR_USAGE, "threads=1025: not a number from 1 to 1024", 0},
    {"threads", "two", QIMG_ERROR_USAGE, "threads=two: not a number from 1 to 1024", 0},
    {"threads", "", QIMG_ERROR_USAGE, "threads=: not a number from 1 to 1024", 0},
    {"nolock", NULL, 0, NULL, 0},
    {"nolock", "1", QIMG_ERROR_USAGE, "nolock: does not take a value", 0},
    {"direct", NULL, 0, NULL, 0},
    {"direct", "on", QIMG_ERROR_USAGE, "direct: does not take a value", 0},
    {"inspect", NULL, 0, NULL, 0},
    {"backing", "any", 0, NULL, 0},
    {"backing", "/nonexistent", QIMG_ERROR_USAGE,
     "backing=/nonexistent: \"/nonexistent\" is no directory (give same-dir, any, none, "
     "or directories separated by colons)",
     0},
    {"backing_map", "a=b", 0, NULL, 0},
    {"backing_map", "ab", QIMG_ERROR_USAGE,
     "backing_map=ab: no OLD=NEW (give the stored name or directory, '=', and the file "
     "or "
     "directory to open in its place)",
     0},
    {"rw", NULL, 0, NULL, 0},
    {"rw", "1", QIMG_ERROR_USAGE, "rw: does not take a value", 0},
    {"cow", NULL, 0, NULL, 0},
    {"cow", "file", 0, NULL, 0},
    {"cow", "", QIMG_ERROR_USAGE,
     "cow=: names no file (give the overlay's name, or cow alone for one that vanishes)",
     0},
    {"growable", NULL, 0, NULL, 0},
    {"nogrowable", NULL, 0, NULL, 0},
    {"nogrowable", "1", QIMG_ERROR_USAGE, "nogrowable: does not take a value", 0},
    {"discard", "unmap", 0, NULL, 0},
    {"discard", "zero", 0, NULL, 0},
    {"discard", "ignore", 0, NULL, 0},
    {"discard", "on", QIMG_ERROR_USAGE,
     "discard=on: unknown mode (give unmap, zero or ignore)", 0},
    {"discard", NULL, QIMG_ERROR_USAGE, "discard: needs a value", 0},
    {"ro", NULL, QIMG_ERROR_USAGE, "ro: no such option", 0},
    {"", NULL, QIMG_ERROR_USAGE, ": no such option", 0},
    {"Threads", "1", QIMG_ERROR_USAGE, "Threads: no such option", 0},
};

static void
test_rows(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        const Row *row = &rows[i];
        g_autoptr(QimgOptions) options = qimg_options_new();
        GError *error = NULL;
        bool is_taken = qimg_options_set(options, row->name, row->value, &error);

        g_assert_cmpint(is_taken, ==, row->error == NULL);
        if (row->error) {
            test_util_check_error(&error, row->code, row->error);
            continue;
        }
        g_assert_true(qimg_options_has(row->name));
        if (g_str_equal(row->name, "l2_cache"))
            g_assert_cmpuint(options->l2_cache_bytes, ==, row->number);
        else if (g_str_equal(row->name, "data_cache"))
            g_assert_cmpuint(options->data_cache_bytes, ==, row->number);
        else if (g_str_equal(row->name, "threads"))
            g_assert_cmpuint(options->n_threads, ==, row->number);
        else if (g_str_equal(row->name, "format"))
            g_assert_cmpstr(options->format, ==, row->value);
    }
    g_assert_false(qimg_options_has("ro"));
}

static void
test_lists(void)
{
    static const struct {
        const char *list;
        const char *elements; /* joined by | */
    } lists[] = {
        {"", ""},
        {",,", ""},
        {"rw", "rw"},
        {"rw,format=raw", "rw|format=raw"},
        {",rw,,cow=,", "rw|cow="},
        {"cow=a\\,b,rw", "cow=a,b|rw"},
        {"a\\\\,b\\", "a\\|b\\"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
        g_auto(GStrv) elements = qimg_options_split(lists[i].list);
        g_autofree char *joined = g_strjoinv("|", elements);

        g_assert_cmpstr(joined, ==, lists[i].elements);
    }
}

static const struct {
    const char *text;
    bool is_size;
    uint64_t bytes;
} sizes[] = {
    {"0", true, 0},
    {"1", true, 1},
    {"1b", true, 1},
    {"1B", true, 1},
    {"1k", true, 1024},
    {"1KiB", true, 1024},
    {"1kiB", true, 1024},
    {"1.5G", true, UINT64_C(3) << 29},
    {"0.5K", true, 512},
    {"0.3K", true, 307},
    {"0.0001K", true, 0},
    {"2.999999999999999999K", true, 3072},
    {"20T", true, UINT64_C(20) << 40},
    {"1P", true, UINT64_C(1) << 50},
    {"15.5E", true, UINT64_C(31) << 59},
    {"18446744073709551615", true, UINT64_MAX},
    {"018", true, 18},
    {"18446744073709551616", false, 0},
    {"16E", false, 0},
    {"15.999999999999999999E", true, UINT64_MAX},
    {"99999999999999999999999999999999999999999999E", false, 0},
    {"1.5", false, 0},
    {"1.5b", false, 0},
    {"1.K", false, 0},
    {".5K", false, 0},
    {"1.0000000000000000000K", false, 0}, /* more digits than are significant */
    {"1MB", false, 0},
    {"1iB", false, 0},
    {"1BiB", false, 0},
    {"1Kib", false, 0},
    {"1X", false, 0},
    {"1 K", false, 0},
    {"K", false, 0},
    {"", false, 0},
    {"-1", false, 0},
    {"+1", false, 0},
    {" 1", false, 0},
    {"1 ", false, 0},
    {"0x10", false, 0},
    {"1e3", false, 0},
    {"inf", false, 0},
};

static void
test_sizes(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint64_t bytes = 4711;
        GError *error = NULL;
        bool is_size = qimg_parse_size(sizes[i].text, &bytes, &error);

        g_test_message("\"%s\"", sizes[i].text);
        g_assert_cmpint(is_size, ==, sizes[i].is_size);
        g_assert_cmpuint(bytes, ==, is_size ? sizes[i].bytes : 4711);
        if (!is_size) {
            g_autofree char *text =
                g_strdup_printf("\"%s\" is no size (give a number of bytes, or one with "
                                "K, M, G, T, P or E, like 1.5G, less than 16E)",
                                sizes[i].text);

            test_util_check_error(&error, QIMG_ERROR_USAGE, text);
        }
    }
}

static void
test_defaults(void)
{
    g_autoptr(QimgOptions) options = qimg_options_new();

    g_assert_null(options->format);
    g_assert_cmpuint(options->l2_cache_bytes, ==, 32 * QIMG_MIB);
    g_assert_cmpuint(options->data_cache_bytes, ==, 16 * QIMG_MIB);
    g_assert_cmpuint(options->n_threads, >=, 2);
    g_assert_false(options->no_lock);
    g_assert_false(options->inspect);
    g_assert_false(options->is_direct);
    g_assert_true(qimg_options_set(options, "nolock", NULL, NULL));
    g_assert_true(qimg_options_set(options, "inspect", NULL, NULL));
    g_assert_true(qimg_options_set(options, "direct", NULL, NULL));
    g_assert_true(options->no_lock && options->inspect && options->is_direct);
    qimg_options_free(NULL);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/options/table", test_rows);
    g_test_add_func("/options/lists", test_lists);
    g_test_add_func("/options/sizes", test_sizes);
    g_test_add_func("/options/defaults", test_defaults);
    return g_test_run();
}
