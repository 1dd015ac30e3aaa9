/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON texts by jansson. */
#include "base/json.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

char *
qimg_json_utf8(const char *bytes, size_t n_bytes)
{
    if (g_utf8_validate(bytes, (gssize)n_bytes, NULL))
        return g_strndup(bytes, n_bytes);
    return g_uri_escape_bytes((const guint8 *)bytes, n_bytes, " !#$&'()*+,/:;=?@[]");
}

void
qimg_json_add_text(json_t *object, const char *name, const char *text)
{
    g_autofree char *utf8 = text ? qimg_json_utf8(text, strlen(text)) : NULL;

    if (utf8)
        json_object_set_new(object, name, json_string(utf8));
}

void
qimg_json_add_number(json_t *object, const char *name, uint64_t number)
{
    json_object_set_new(object, name, json_integer((json_int_t)number));
}

char *
qimg_json_finish(json_t *root)
{
    char *text = json_dumps(root, JSON_INDENT(4));
    char *line;

    if (!text)
        g_error("out of memory");
    line = g_strconcat(text, "\n", NULL);
    free(text);
    json_decref(root);
    return line;
}

/* Appends @value, which it consumes, with @n_spaces more before each line but the first,
 * and without @n_skipped bytes at both ends. */
static void
append_shifted(GString *out, json_t *value, unsigned n_spaces, size_t n_skipped)
{
    char *text = json_dumps(value, JSON_INDENT(4));
    const char *line, *end;

    if (!text)
        g_error("out of memory");
    end = text + strlen(text) - n_skipped;
    for (line = text + n_skipped; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *next = newline ? newline + 1 : end;

        g_string_append_len(out, line, next - line);
        if (newline)
            g_string_append_printf(out, "%*s", (int)n_spaces, "");
        line = next;
    }
    free(text);
    json_decref(value);
}

void
qimg_json_append(GString *out, json_t *value, unsigned level)
{
    append_shifted(out, value, level * 4, 0);
}

void
qimg_json_append_members(GString *out, json_t *object, unsigned level)
{
    gsize start = out->len;

    /* Without the brace and the newline at both ends, and the first indentation. */
    append_shifted(out, object, (level - 1) * 4, 2);
    g_string_erase(out, (gssize)start, 4);
}
