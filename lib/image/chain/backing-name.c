/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The stored name of a backing file: a plain path, a path with the protocol "file:", or a
 * json: block graph, of which only plain files are accepted. Spec: qcow2 section 9. */
#include <jansson.h>
#include <string.h>

#include "base/errors.h"
#include "image/chain/backing-name.h"

static bool
refuse_graph(GError **error, const char *what)
{
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "backing file name json:…: %s (only a format over a plain file can be "
                   "opened; store a plain name with qemu-img rebase -u)",
                   what);
    return false;
}

/* Returns the member @name of @object as text, in *@out; refuses other types. */
static bool
take_text(json_t *object, const char *name, const char **out, GError **error)
{
    json_t *member = json_object_get(object, name);

    if (!member)
        return true;
    if (!json_is_string(member))
        return refuse_graph(error, "a driver or file name is no text");
    *out = json_string_value(member);
    return true;
}

/* Members of a format and of a file that change how it is read, and not what is read. */
static const char *const harmless[] = {
    "node-name",
    "read-only",
    "auto-read-only",
    "force-share",
    "discard",
    "detect-zeroes",
    "cache",
    "cache.direct",
    "cache.no-flush",
    "aio",
    "aio-max-batch",
    "locking",
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-clean-interval",
    NULL,
};

/* Whether each member of @object is one of @known, harmless, or a harmless one of its
 * file. The refusal names the member. */
static bool
check_members(json_t *object, const char *const *known, const char *whose, GError **error)
{
    const char *name;
    json_t *value;

    json_object_foreach(object, name, value)
    {
        const char *of_file = g_str_has_prefix(name, "file.") ? name + 5 : name;
        g_autofree char *shown = NULL;
        g_autofree char *what = NULL;

        if (g_strv_contains(known, name) || g_strv_contains(harmless, of_file))
            continue;
        shown = g_strescape(name, NULL);
        what = g_strdup_printf("%s has the member \"%s\"", whose, shown);
        return refuse_graph(error, what);
    }
    return true;
}

/* The content of a graph; the texts belong to the parsed JSON. */
typedef struct {
    const char *driver;
    const char *file_driver;
    const char *filename;
} Graph;

static bool
take_file(json_t *file, Graph *graph, GError **error)
{
    static const char *const known[] = {"driver", "filename", NULL};

    if (!json_is_object(file))
        return refuse_graph(error, "its file is a reference");
    return check_members(file, known, "its file", error) &&
           take_text(file, "driver", &graph->file_driver, error) &&
           take_text(file, "filename", &graph->filename, error);
}

/* A graph node may be {"driver": F, "file": {"driver": "file", "filename": N}}, the same
 * flattened ("file.driver", "file.filename"), or only the file. Every other graph is
 * refused. */
static bool
take_graph(json_t *object, Graph *graph, GError **error)
{
    static const char *const known[] = {"driver",        "file",     "file.driver",
                                        "file.filename", "filename", NULL};
    json_t *file = json_object_get(object, "file");

    if (!check_members(object, known, "it", error) ||
        !take_text(object, "driver", &graph->driver, error) ||
        !take_text(object, "file.driver", &graph->file_driver, error) ||
        !take_text(object, "file.filename", &graph->filename, error) ||
        (file && !take_file(file, graph, error)))
        return false;
    if (!graph->filename && json_object_get(object, "filename")) {
        /* Only the file, without a format above it: its raw bytes. */
        graph->file_driver = graph->driver ? graph->driver : "file";
        graph->driver = graph->driver ? "raw" : NULL;
        if (!take_text(object, "filename", &graph->filename, error))
            return false;
    }
    if (!graph->filename || !*graph->filename)
        return refuse_graph(error, "it names no file");
    if (graph->file_driver && strcmp(graph->file_driver, "file") != 0 &&
        strcmp(graph->file_driver, "host_device") != 0)
        return refuse_graph(error, "its file is not a plain one");
    return true;
}

static bool
parse_graph(const char *text, char **path_out, char **format_out, GError **error)
{
    /* QEMU might use the other one of two members of the same name. */
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    Graph graph = {0};
    bool is_good;

    if (!json_is_object(root)) {
        json_decref(root);
        return refuse_graph(error, "it cannot be parsed");
    }
    is_good = take_graph(root, &graph, error);
    if (is_good) {
        *path_out = g_strdup(graph.filename);
        *format_out = g_strdup(graph.driver);
    }
    json_decref(root);
    return is_good;
}

bool
backing_name_parse(const char *name, char **path_out, char **format_out, GError **error)
{
    size_t n_protocol;

    *path_out = *format_out = NULL;
    if (g_str_has_prefix(name, "json:"))
        return parse_graph(name + strlen("json:"), path_out, format_out, error);
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
            "files can be opened (say which file it is with -o backing_map='%s'=FILE; a "
            "local name with a colon needs ./ before it: qemu-img rebase -u)",
            shown, shown);
        return false;
    }
    *path_out = g_strdup(name);
    return true;
}

char *
backing_name_resolve(const char *image_path, const char *name)
{
    g_autofree char *dir = g_path_get_dirname(image_path);

    return g_path_is_absolute(name) ? g_strdup(name) : g_build_filename(dir, name, NULL);
}
