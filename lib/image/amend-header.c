/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The properties of a header have the names of image/create-options.c. */
#include "image/amend-header.h"

#include <string.h>

#include "base/errors.h"
#include "format/driver.h"
#include "image/chain/option-value.h"
#include "image/open/chain-open.h"

void
amend_header_init(AmendHeader *amend)
{
    *amend = (AmendHeader){.fields = QIMG_HEADER_CHANGE_NONE};
}

void
amend_header_clear(AmendHeader *amend)
{
    g_free(amend->data_file);
}

static bool
amend_flag(const char *name, const char *value, int *out, GError **error)
{
    static const char *const words[] = {"off", "on", NULL};
    int i = value ? option_find_word(name, value, words, error) : 1;

    if (i >= 0)
        *out = i;
    return i >= 0;
}

static bool
amend_compat(AmendHeader *amend, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"0.10", "1.1", "v2", "v3", NULL};
    int i = option_find_word(name, value, words, error);

    if (i >= 0)
        amend->fields.version = 2 + (unsigned)i % 2;
    return i >= 0;
}

static bool
amend_refcount_bits(AmendHeader *amend, const char *name, const char *value,
                    GError **error)
{
    static const char *const words[] = {"1", "2", "4", "8", "16", "32", "64", NULL};

    return (amend->fields.refcount_order = option_find_word(name, value, words, error)) >=
           0;
}

static bool
amend_lazy(AmendHeader *amend, const char *name, const char *value, GError **error)
{
    return amend_flag(name, value, &amend->fields.lazy_refcounts, error);
}

static bool
amend_data_file_raw(AmendHeader *amend, const char *name, const char *value,
                    GError **error)
{
    return amend_flag(name, value, &amend->fields.data_file_raw, error);
}

static bool
amend_data_file(AmendHeader *amend, const char *name, const char *value, GError **error)
{
    (void)name, (void)error;
    g_free(amend->data_file);
    amend->data_file = g_strdup(value);
    return true;
}

static const struct {
    const char *name;
    TakesValue takes_value;
    bool (*set)(AmendHeader *amend, const char *name, const char *value, GError **error);
} header_table[] = {
    {"compat", VALUE, amend_compat},
    {"refcount_bits", VALUE, amend_refcount_bits},
    {"lazy_refcounts", MAYBE_VALUE, amend_lazy},
    {"data_file", VALUE, amend_data_file},
    {"data_file_raw", MAYBE_VALUE, amend_data_file_raw},
};

static size_t
find_property(const char *name)
{
    size_t i = 0;

    while (i < G_N_ELEMENTS(header_table) && strcmp(header_table[i].name, name) != 0)
        i++;
    return i;
}

bool
amend_header_has(const char *name)
{
    return find_property(name) < G_N_ELEMENTS(header_table);
}

bool
amend_header_set(AmendHeader *amend, const char *name, const char *value, GError **error)
{
    size_t i = find_property(name);

    amend->given |= 1u << i;
    return option_check_value(name, header_table[i].takes_value, value, error) &&
           header_table[i].set(amend, name, value, error);
}

bool
amend_header_run(AmendHeader *amend, const char *path, const QimgOptions *options,
                 const QimgTask *task, GError **error)
{
    QimgChain *chain = chain_open_for_check(path, options, true, error);
    QimgFormat *layer;
    bool is_done = false;

    if (!chain)
        return false;
    layer = chain->layers[0];
    if (!layer->driver->change_header)
        qimg_set_error(
            error, QIMG_ERROR_UNSUPPORTED,
            "is a %s image, whose header has no properties that can be changed",
            layer->driver->name);
    else {
        amend->fields.data_file_name = amend->data_file;
        is_done = layer->driver->change_header(layer, &amend->fields, task, error);
    }
    chain_unref(chain);
    return is_done;
}
