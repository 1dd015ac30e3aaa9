/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The name of a backing file as it is stored: a plain path, a path with the protocol
 * "file:", or a json: block graph, of which only plain files are taken. Spec: qcow2
 * section 9. */
#include <json-glib/json-glib.h>
#include <string.h>

#include "base/errors.h"
#include "image/image.h"

static bool
refuse_graph(GError **error, const char *what)
{
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "backing file name json:…: %s (only a format over a plain file can be "
                   "opened; store a plain name with qemu-img rebase -u)",
                   what);
    return false;
}

/* Takes the member @key of @object as text, in *@out; other types are refused. */
static bool
take_text(JsonObject *object, const char *key, const char **out, GError **error)
{
    JsonNode *node = json_object_get_member(object, key);

    if (!node)
        return true;
    if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING)
        return refuse_graph(error, "a driver or file name is no text");
    *out = json_node_get_string(node);
    return true;
}

/* A graph node may say {"driver": F, "file": {"driver": "file", "filename": N}}, the same
 * flattened ("file.driver", "file.filename"), or just the file. Anything else would need
 * an interpretation that we do not have, so it is refused. */
static bool
parse_graph(JsonObject *object, char **path_out, char **format_out, GError **error)
{
    static const char *const known[] = {"driver",        "file",     "file.driver",
                                        "file.filename", "filename", "node-name"};
    const char *driver = NULL, *file_driver = NULL, *filename = NULL;
    g_autoptr(GList) members = json_object_get_members(object);
    JsonNode *file;

    for (GList *m = members; m; m = m->next) {
        bool is_known = false;

        for (size_t i = 0; i < G_N_ELEMENTS(known); i++)
            is_known |= strcmp(m->data, known[i]) == 0;
        if (!is_known)
            return refuse_graph(error, "it has members other than driver and file");
    }
    if (!take_text(object, "driver", &driver, error) ||
        !take_text(object, "file.driver", &file_driver, error) ||
        !take_text(object, "file.filename", &filename, error))
        return false;
    file = json_object_get_member(object, "file");
    if (file && JSON_NODE_HOLDS_OBJECT(file)) {
        JsonObject *inner = json_node_get_object(file);

        if (json_object_get_size(inner) !=
            (guint)(json_object_has_member(inner, "driver") +
                    json_object_has_member(inner, "filename")))
            return refuse_graph(error,
                                "its file has members other than driver, filename");
        if (!take_text(inner, "driver", &file_driver, error) ||
            !take_text(inner, "filename", &filename, error))
            return false;
    } else if (file) {
        return refuse_graph(error, "its file is a reference");
    }
    if (!filename && json_object_has_member(object, "filename")) {
        file_driver = driver ? driver : "file";
        driver = NULL;
        if (!take_text(object, "filename", &filename, error))
            return false;
    }
    if (!filename || !*filename)
        return refuse_graph(error, "it names no file");
    if (file_driver && strcmp(file_driver, "file") != 0)
        return refuse_graph(error, "its file is not a plain one");
    *path_out = g_strdup(filename);
    *format_out = g_strdup(driver);
    return true;
}

bool
backing_name_parse(const char *name, char **path_out, char **format_out, GError **error)
{
    g_autoptr(JsonParser) parser = NULL;
    size_t n_protocol;

    *path_out = *format_out = NULL;
    if (g_str_has_prefix(name, "json:")) {
        JsonNode *root;

        parser = json_parser_new_immutable();
        if (!json_parser_load_from_data(parser, name + strlen("json:"), -1, NULL) ||
            !(root = json_parser_get_root(parser)) || !JSON_NODE_HOLDS_OBJECT(root))
            return refuse_graph(error, "it cannot be parsed");
        return parse_graph(json_node_get_object(root), path_out, format_out, error);
    }
    if (g_str_has_prefix(name, "file:")) {
        *path_out = g_strdup(name + strlen("file:"));
        return true;
    }
    n_protocol = strcspn(name, ":/");
    if (name[n_protocol] == ':') {
        g_autofree char *shown = g_strescape(name, NULL);

        qimg_set_error(
            error, QIMG_ERROR_REFUSED,
            "backing file name \"%s\": begins with a protocol, and only local "
            "files can be opened (a local name with a colon needs ./ before it: "
            "qemu-img rebase -u)",
            shown);
        return false;
    }
    *path_out = g_strdup(name);
    return true;
}
