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
