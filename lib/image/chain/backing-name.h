/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* What a stored backing name means. Fills in *@path_out (plain
 * name, free with g_free) and *@format_out (NULL where the name does not say). Errors:
 * REFUSED for what is no local file. */
bool backing_name_parse(const char *name, char **path_out, char **format_out,
                        GError **error);
