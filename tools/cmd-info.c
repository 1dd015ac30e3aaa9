/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg info: what an image is. The human form is made from the same JSON object. */
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <string.h>

#include "output.h"

static void
print_line(int indent, const char *name, const char *text)
{
    g_autofree char *shown = output_printable(text);

    printf("%*s%s: %s\n", indent, "", name, shown);
}

static void
print_size(JsonObject *o, int indent, const char *member, const char *name)
{
    if (json_object_has_member(o, member)) {
        g_autofree char *text =
            output_size((uint64_t)json_object_get_int_member(o, member));

        print_line(indent, name, text);
    }
}

static void
print_text(JsonObject *o, int indent, const char *member, const char *name)
{
    if (json_object_has_member(o, member))
        print_line(indent, name, json_object_get_string_member(o, member));
}

static void
print_snapshots(JsonObject *o, int indent)
{
    JsonArray *list;

    if (!json_object_has_member(o, "snapshots"))
        return;
    list = json_object_get_array_member(o, "snapshots");
    printf("%*ssnapshots:\n", indent, "");
    printf("%*s%-8s%-24s%14s%14s  %s\n", indent + 2, "", "ID", "NAME", "VM STATE", "DISK",
           "DATE (UTC)");
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *s = json_array_get_object_element(list, i);
        g_autofree char *id = output_printable(json_object_get_string_member(s, "id"));
        g_autofree char *name =
            output_printable(json_object_get_string_member(s, "name"));
        g_autofree char *state =
            g_format_size_full((guint64)json_object_get_int_member(s, "vm-state-size"),
                               G_FORMAT_SIZE_IEC_UNITS);
        g_autofree char *disk = g_format_size_full(
            (guint64)json_object_get_int_member(s, "disk-size"), G_FORMAT_SIZE_IEC_UNITS);
        g_autoptr(GDateTime) date =
            g_date_time_new_from_unix_utc(json_object_get_int_member(s, "date-sec"));
        g_autofree char *day = date ? g_date_time_format(date, "%F %T") : g_strdup("?");

        printf("%*s%-8s%-24s%14s%14s  %s\n", indent + 2, "", id, name, state, disk, day);
    }
}

static void
print_fact(JsonObject *facts, const char *name, JsonNode *value, gpointer user)
{
    int indent = *(int *)user;
    g_autofree char *text = NULL;

    (void)facts;
    if (JSON_NODE_HOLDS_OBJECT(value))
        return;
    if (json_node_get_value_type(value) == G_TYPE_STRING)
        text = g_strdup(json_node_get_string(value));
    else if (json_node_get_value_type(value) == G_TYPE_BOOLEAN)
        text = g_strdup(json_node_get_boolean(value) ? "true" : "false");
    else
        text = g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(value));
    print_line(indent, name, text);
}

static void
print_layer(JsonObject *o, int indent)
{
    print_line(indent, "image", json_object_get_string_member(o, "filename"));
    indent += 2;
    print_text(o, indent, "format", "format");
    print_size(o, indent, "virtual-size", "virtual size");
    print_size(o, indent, "actual-size", "disk size");
    print_size(o, indent, "cluster-size", "cluster size");
    if (json_object_get_boolean_member(o, "encrypted"))
        print_line(indent, "encrypted", "yes");
    if (json_object_get_boolean_member(o, "dirty-flag"))
        print_line(indent, "cleanly shut down", "no");
    print_text(o, indent, "backing-filename", "backing file");
    print_text(o, indent, "full-backing-filename", "backing file opened as");
    print_text(o, indent, "backing-filename-format", "backing file format");
    print_text(o, indent, "full-data-filename", "data file opened as");
    print_snapshots(o, indent);
    if (json_object_has_member(o, "format-specific")) {
        int inner = indent + 2;

        printf("%*sformat specific:\n", indent, "");
        json_object_foreach_member(
            json_object_get_object_member(
                json_object_get_object_member(o, "format-specific"), "data"),
            print_fact, &inner);
    }
}

static void
print_human(const char *json)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonArray *chain;

    if (!json_parser_load_from_data(parser, json, -1, NULL))
        g_error("the library gave JSON that cannot be parsed");
    chain = json_object_get_array_member(
        json_node_get_object(json_parser_get_root(parser)), "chain");
    for (guint i = 0; i < json_array_get_length(chain); i++)
        print_layer(json_array_get_object_element(chain, i), 0);
}

int
cmd_info(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = NULL;
    g_autofree char *json = NULL;
    CommandLine line;
    int exit_code;

    if (!command_line_parse(argc, argv, "Shows what an image and its backing files are.",
                            &line, &exit_code))
        return exit_code;
    /* Facts can be shown of an image whose data cannot be read. */
    if (qimg_options_set(line.image_options, "inspect", NULL, &error))
        image = qimg_image_open(line.path, line.image_options, &error);
    if (!image) {
        exit_code = output_failure(line.path, error);
        command_line_clear(&line);
        return exit_code;
    }
    command_line_clear(&line);
    json = qimg_image_info_json(image);
    if (line.json) {
        fputs(json, stdout);
        return EXIT_GOOD;
    }
    output_warnings(image);
    print_human(json);
    return EXIT_GOOD;
}
