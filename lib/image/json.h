/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What files that make JSON share. */
#pragma once

#include <jansson.h>
#include <stddef.h>

/* @bytes as UTF-8: as they are where they are that, else with all but ASCII encoded. Free
 * with g_free. */
char *json_utf8_of(const char *bytes, size_t n_bytes);

/* @root as a text that ends in a newline; free with g_free. Takes @root over. */
char *json_finish(json_t *root);
