/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Builds JSON texts of values that may come from an image. */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* Returns @bytes as UTF-8: unchanged if they are valid UTF-8, else with every byte
 * outside ASCII percent-encoded. Free with g_free. */
char *qimg_json_utf8(const char *bytes, size_t n_bytes);

/* Adds a member to @object: a string (see qimg_json_utf8; NULL adds nothing), or a
 * number. */
void qimg_json_add_text(json_t *object, const char *name, const char *text);
void qimg_json_add_number(json_t *object, const char *name, uint64_t number);

/* Renders @root, which it consumes, as indented text that ends in a newline; free with
 * g_free. Ends the process if memory is out, as GLib does. */
char *qimg_json_finish(json_t *root);

/* Append @value to @out as indented text, for a document made in pieces: @value is at
 * indentation @level, its first line is not indented. append_members appends the members
 * of a non-empty object without its braces. Both consume @value. */
void qimg_json_append(GString *out, json_t *value, unsigned level);
void qimg_json_append_members(GString *out, json_t *object, unsigned level);
