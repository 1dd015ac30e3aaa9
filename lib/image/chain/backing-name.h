/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Parses a stored backing name. Sets *@path_out (plain name, free with g_free) and
 * *@format_out (NULL if the name has no format). Errors: REFUSED for anything but a local
 * file. */
bool backing_name_parse(const char *name, char **path_out, char **format_out,
                        GError **error);

/* The path of the plain name @name stored in the image at @image_path: relative to its
 * directory. Free with g_free. */
char *backing_name_resolve(const char *image_path, const char *name);
