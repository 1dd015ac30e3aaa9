/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options given by name: whether they take a value. */
#pragma once

#include "base/errors.h"

typedef enum {
    NO_VALUE,
    VALUE,
    MAYBE_VALUE,
} TakesValue;

/* Whether @value, NULL for none, fits option @name. */
static inline bool
option_check_value(const char *name, TakesValue takes_value, const char *value,
                   GError **error)
{
    if (takes_value == (value ? NO_VALUE : VALUE))
        return qimg_misuse(error, "%s: %s a value", name,
                           value ? "does not take" : "needs");
    return true;
}

/* Index of @value, of the option @name, in @words, which end with NULL; -1 with @error
 * set. */
static inline int
option_find_word(const char *name, const char *value, const char *const *words,
                 GError **error)
{
    g_autofree char *list = NULL;

    for (int i = 0; words[i]; i++)
        if (g_str_equal(value, words[i]))
            return i;
    list = g_strjoinv(", ", (char **)words);
    return qimg_misuse(error, "%s=%s: unknown (give one of %s)", name, value, list) - 1;
}
