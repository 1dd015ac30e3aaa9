/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options that users know from other programs. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Takes @option, "name" or "name=value", which is none of the @n_names of ours. True: it
 * is accepted and has no effect here. Else false with @error set, which names the option
 * that does it, or the nearest one of ours. @dashes: how it was given, "-o " or "--". */
bool option_habits_take(const char *dashes, const char *option, const char *const *names,
                        size_t n_names, GError **error);
