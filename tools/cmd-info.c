/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg info: shows the facts about an image. The human form is made from the same JSON
 * object. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "command-line.h"
#include "output.h"

static void
print_line(int indent, const char *name, const char *text)
{
    g_autofree char *shown = output_printable(text);

    printf("%*s%s: %s\n", indent, "", name, shown);
}

static guint64
info_number(json_t *o, const char *member)
{
    return (guint64)json_integer_value(json_object_get(o, member));
}

static void
print_size(json_t *o, int indent, const char *member, const char *name)
{
    if (json_object_get(o, member)) {
        g_autofree char *text = output_size(info_number(o, member));

        print_line(indent, name, text);
    }
}

static const char *
get_text(json_t *o, const char *member)
{
    return json_string_value(json_object_get(o, member));
}

static void
print_text(json_t *o, int indent, const char *member, const char *name)
{
    if (json_object_get(o, member))
        print_line(indent, name, get_text(o, member));
}

static void
print_fact(const char *name, json_t *value, int indent)
{
    g_autofree char *text = NULL;

    if (json_is_object(value) || json_is_array(value))
        return;
    if (json_is_string(value))
        text = g_strdup(json_string_value(value));
    else if (json_is_boolean(value))
        text = g_strdup(json_is_true(value) ? "true" : "false");
    else
        text = g_strdup_printf("%" G_GINT64_FORMAT, (gint64)json_integer_value(value));
    print_line(indent, name, text);
}

static void
print_bitmaps(json_t *list, int indent)
{
    json_t *b, *flag;
    size_t i, j;

    printf("%*sbitmaps:\n", indent, "");
    json_array_foreach(list, i, b)
    {
        g_autofree char *name = output_printable(get_text(b, "name"));
        g_autofree char *granularity =
            output_short_size((uint64_t)info_number(b, "granularity"));

        printf("%*s%s: granularity %s", indent + 2, "", name, granularity);
        json_array_foreach(json_object_get(b, "flags"), j, flag)
            printf(", %s", json_string_value(flag));
        putchar('\n');
    }
}

/* The properties of an encryption, with a line for each key slot. */
static void
print_slots(json_t *slots, int indent)
{
    json_t *slot;
    size_t i;

    printf("%*sslots:\n", indent, "");
    json_array_foreach(slots, i, slot)
    {
        if (json_is_true(json_object_get(slot, "active")))
            printf("%*s%zu: active, %" G_GUINT64_FORMAT
                   " iterations, key material at %" G_GUINT64_FORMAT "\n",
                   indent + 2, "", i, info_number(slot, "iters"),
                   info_number(slot, "key-offset"));
        else
            printf("%*s%zu: inactive\n", indent + 2, "", i);
    }
}

static void
print_layer(json_t *o, int indent)
{
    json_t *snapshots = json_object_get(o, "snapshots");
    json_t *facts = json_object_get(json_object_get(o, "format-specific"), "data");
    json_t *encrypt = json_object_get(facts, "encrypt");
    const char *name;
    json_t *value;

    print_line(indent, "image", get_text(o, "filename"));
    indent += 2;
    print_text(o, indent, "format", "format");
    print_size(o, indent, "virtual-size", "virtual size");
    print_size(o, indent, "actual-size", "disk size");
    print_size(o, indent, "cluster-size", "cluster size");
    if (json_is_true(json_object_get(o, "encrypted")))
        print_line(indent, "encrypted", "yes");
    if (json_is_true(json_object_get(o, "dirty-flag")))
        print_line(indent, "cleanly shut down", "no");
    print_text(o, indent, "backing-filename", "backing file");
    print_text(o, indent, "full-backing-filename", "backing file opened as");
    print_text(o, indent, "backing-filename-format", "backing file format");
    print_text(o, indent, "full-data-filename", "data file opened as");
    if (snapshots) {
        printf("%*ssnapshots:\n", indent, "");
        output_snapshots(snapshots, indent + 2);
    }
    if (facts)
        printf("%*sformat specific:\n", indent, "");
    json_object_foreach(facts, name, value) print_fact(name, value, indent + 2);
    if (encrypt) {
        printf("%*sencrypt:\n", indent + 2, "");
        json_object_foreach(encrypt, name, value) print_fact(name, value, indent + 4);
    }
    if (json_object_get(encrypt ? encrypt : facts, "slots"))
        print_slots(json_object_get(encrypt ? encrypt : facts, "slots"),
                    indent + (encrypt ? 4 : 2));
    if (json_object_get(facts, "bitmaps"))
        print_bitmaps(json_object_get(facts, "bitmaps"), indent + 2);
}

static void
info_print_human(const char *json)
{
    json_t *root = json_loads(json, 0, NULL), *layer;
    size_t i;

    if (!root)
        g_error("the library gave JSON that cannot be parsed");
    json_array_foreach(json_object_get(root, "chain"), i, layer) print_layer(layer, 0);
    json_decref(root);
}

/* As qemu-img info --backing-chain: an array with an object for each image. */
static void
info_print_chain_json(const char *json)
{
    json_t *root = json_loads(json, 0, NULL);
    char *text;

    if (!root)
        g_error("the library gave JSON that cannot be parsed");
    text = json_dumps(json_object_get(root, "chain"), JSON_INDENT(4));
    puts(text);
    free(text);
    json_decref(root);
}

int
cmd_info(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = NULL;
    g_autofree char *json = NULL;
    gboolean as_chain = FALSE;
    const GOptionEntry entries[] = {
        {"backing-chain", 0, 0, G_OPTION_ARG_NONE, &as_chain,
         "with --output=json print an array of the images", NULL},
        {0},
    };
    const CommandSpec spec = {
        .operands = "IMAGE",
        .summary = "Shows the properties of an image and its backing files.",
        .min_operands = 1,
        .max_operands = 1,
        .has_output = true,
        .opens_image = true,
        .entries = entries,
    };
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    /* The facts of an encrypted image can be shown without its key. */
    if (qimg_options_set(line.image_options, "inspect", NULL, &error))
        image = qimg_image_open(line.operands[0], line.image_options, &error);
    if (!image) {
        exit_code = output_failure(line.operands[0], error);
        command_line_clear(&line);
        return exit_code;
    }
    command_line_clear(&line);
    json = qimg_image_info_json(image);
    if (line.json) {
        if (as_chain)
            info_print_chain_json(json);
        else
            fputs(json, stdout);
        return EXIT_GOOD;
    }
    output_warnings(image);
    info_print_human(json);
    return EXIT_GOOD;
}
