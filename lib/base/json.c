/* SPDX-License-Identifier: GPL-2.0-or-later */
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
