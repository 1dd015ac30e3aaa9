/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg bitmap: lists, shows and changes the persistent bitmaps of an image. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

static void
print_one(const QimgBitmap *bitmap, unsigned layer)
{
    g_autofree char *name = output_printable(bitmap->name);
    g_autofree char *granularity = output_short_size(bitmap->granularity_bytes);
    g_autofree char *where = layer ? g_strdup_printf(" (layer %u)", layer) : g_strdup("");
    const char *reason = qimg_bitmap_get_reason(bitmap);

    printf("%s%s: granularity %s, %s%s%s\n", name, where, granularity,
           bitmap->is_enabled ? "enabled" : "disabled", reason ? "; " : "",
           reason ? reason : "");
}

/* The bitmaps of a file of the chain, and the handle that they need. */
typedef struct {
    QimgImage *image;
    QimgBitmaps *list;
} Layer;

static void
clear_layer(gpointer data)
{
    Layer *layer = data;

    qimg_bitmaps_unref(layer->list);
    qimg_image_close(layer->image);
}

static void
list_bitmaps(const GArray *layers, bool json)
{
    json_t *all = json_array();

    for (guint n = 0; n < layers->len; n++) {
        const Layer *layer = &g_array_index(layers, Layer, n);

        for (unsigned i = 0; i < qimg_bitmaps_get_n(layer->list); i++) {
            const QimgBitmap *bitmap = qimg_bitmaps_get(layer->list, i);
            g_autofree char *text = json ? qimg_bitmap_json(bitmap) : NULL;
            json_t *object = json ? json_loads(text, 0, NULL) : NULL;

            if (!json) {
                print_one(bitmap, n);
                continue;
            }
            json_object_set_new(object, "layer", json_integer(n));
            json_array_append_new(all, object);
        }
    }
    if (json) {
        json_dumpf(all, stdout, JSON_INDENT(4));
        putchar('\n');
    }
    json_decref(all);
}

static int
extents_failed(const char *path, const QimgBitmap *bitmap, int err)
{
    g_autofree char *name = output_printable(bitmap->name);
    const char *reason = qimg_bitmap_get_reason(bitmap);

    fprintf(stderr, "qimg: %s: the bits of the bitmap \"%s\" cannot be told: %s\n", path,
            name, reason ? reason : g_strerror(-err));
    return EXIT_FAILED;
}

static int
print_extents_json(QimgBitmapReader *reader, const QimgBitmap *bitmap, unsigned layer,
                   const char *path)
{
    g_autoptr(GString) piece = g_string_new(NULL);
    uint64_t place = 0;

    do {
        int err;

        g_string_truncate(piece, 0);
        err = qimg_bitmap_reader_next_json(reader, layer, &place, piece);
        if (err)
            return extents_failed(path, bitmap, err);
        fputs(piece->str, stdout);
    } while (piece->len > 0);
    return EXIT_GOOD;
}

static int
print_extents_human(QimgBitmapReader *reader, const QimgBitmap *bitmap, const char *path)
{
    QimgBitmapExtent extent = {.struct_bytes = sizeof extent};

    printf("%-16s%-16s%s\n", "Offset", "Length", "State");
    for (uint64_t at = 0; at < bitmap->size_bytes; at += extent.length_bytes) {
        int err = qimg_bitmap_reader_map(reader, at, &extent);

        if (err)
            return extents_failed(path, bitmap, err);
        printf("%-#16" PRIx64 "%-#16" PRIx64 "%s\n", extent.guest_offset,
               extent.length_bytes, extent.is_dirty ? "dirty" : "clean");
    }
    return EXIT_GOOD;
}

/* The bitmap called @name of the first layer that has one. */
static const Layer *
find_in_layers(const GArray *layers, const char *name, unsigned *place_out,
               GError **error)
{
    for (guint n = 0; n < layers->len; n++) {
        const Layer *layer = &g_array_index(layers, Layer, n);

        g_clear_error(error);
        if (qimg_bitmaps_find(layer->list, name, place_out, error))
            return layer;
    }
    return NULL;
}

static int
print_extents(const GArray *layers, const CommandLine *line)
{
    const char *path = line->operands[0];
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgBitmapReader) reader = NULL;
    const QimgBitmap *bitmap;
    unsigned place;
    const Layer *layer = find_in_layers(layers, line->operands[1], &place, &error);

    if (!layer)
        return output_failure(path, error);
    bitmap = qimg_bitmaps_get(layer->list, place);
    if (qimg_bitmap_get_reason(bitmap))
        return extents_failed(path, bitmap, -EINVAL);
    reader = qimg_bitmap_reader_new(layer->image, layer->list, place);
    return line->json
               ? print_extents_json(reader, bitmap,
                                    (unsigned)(layer - (Layer *)(void *)layers->data),
                                    path)
               : print_extents_human(reader, bitmap, path);
}

/* The options of the command line. */
typedef struct {
    gboolean lists, extents;
    GPtrArray *actions; /* QimgBitmapAction *, in the order given */
    char *granularity;
    char *source_file; /* of --merge */
    char *source_format;
} Wanted;

static int
show(const CommandLine *line, bool extents)
{
    const char *path = line->operands[0];
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = qimg_image_open(path, line->image_options, &error);
    g_autoptr(GArray) layers = g_array_new(FALSE, FALSE, sizeof(Layer));
    int status = EXIT_GOOD;

    g_array_set_clear_func(layers, clear_layer);
    if (!image)
        return output_failure(path, error);
    output_warnings(image);
    for (unsigned n = 0; n < qimg_image_get_n_layers(image); n++) {
        Layer layer = {.image = qimg_image_open_layer(image, n, &error)};

        if (layer.image)
            layer.list = qimg_image_read_bitmaps(layer.image, &error);
        g_array_append_val(layers, layer);
        if (!layer.list)
            return output_failure(path, error);
        if (qimg_bitmaps_get_damage(layer.list))
            fprintf(stderr, "qimg: warning: %s: layer %u: %s (qimg check)\n", path, n,
                    qimg_bitmaps_get_damage(layer.list));
    }
    if (extents)
        status = print_extents(layers, line);
    else
        list_bitmaps(layers, line->json);
    return status;
}

/* Opens the image for a change of its bitmaps. All of them can be removed even if their
 * directory is damaged. */
static QimgImage *
open_to_change(const CommandLine *line, const Wanted *wanted, GError **error)
{
    const QimgBitmapAction *first = wanted->actions->pdata[0];
    bool removes_all = wanted->actions->len == 1 && first->kind == QIMG_BITMAP_REMOVE_ALL;
    QimgImage *image = NULL;

    if (qimg_options_set(line->image_options, "rw", NULL, error))
        image = qimg_image_open(line->operands[0], line->image_options, error);
    if (image || !removes_all || !g_error_matches(*error, QIMG_ERROR, QIMG_ERROR_REFUSED))
        return image;
    g_clear_error(error);
    return qimg_options_set(line->image_options, "bitmaps", "drop", error)
               ? qimg_image_open(line->operands[0], line->image_options, error)
               : NULL;
}

/* Opens the image that bitmaps are merged from. */
static QimgImage *
open_source_file(const Wanted *wanted, GError **error)
{
    g_autoptr(QimgOptions) options = qimg_options_new();

    if ((wanted->source_format &&
         !qimg_options_set(options, "format", wanted->source_format, error)) ||
        !qimg_options_set(options, "nokey", NULL, error))
        return NULL;
    return qimg_image_open(wanted->source_file, options, error);
}

static int
change(const CommandLine *line, const Wanted *wanted)
{
    const char *path = line->operands[0];
    const char *name = line->n_operands > 1 ? line->operands[1] : NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) source = NULL;
    g_autoptr(QimgImage) image = NULL;
    bool is_good;
    int err;

    if (wanted->source_file) {
        source = open_source_file(wanted, &error);
        if (!source)
            return output_failure(wanted->source_file, error);
        for (guint i = 0; i < wanted->actions->len; i++)
            ((QimgBitmapAction *)wanted->actions->pdata[i])->source_image = source;
    }
    image = open_to_change(line, wanted, &error);
    if (!image)
        return output_failure(path, error);
    interrupt_begin(NULL, NULL);
    progress_begin("changing", false, false);
    is_good = qimg_image_change_bitmaps(
        image, name, (const QimgBitmapAction *const *)wanted->actions->pdata,
        wanted->actions->len, progress_update, NULL, &error);
    progress_end();
    interrupt_end();
    if (!is_good)
        return output_failure(path, error);
    err = qimg_image_flush(image);
    if (err) {
        fprintf(stderr, "qimg: %s: the image cannot be synced: %s\n", path,
                g_strerror(-err));
        return EXIT_FAILED;
    }
    return EXIT_GOOD;
}

static gboolean
take_action(const char *option, const char *value, gpointer data, GError **error)
{
    static const struct {
        const char *option;
        QimgBitmapActionKind kind;
    } kinds[] = {
        {"--add", QIMG_BITMAP_ADD},         {"--remove", QIMG_BITMAP_REMOVE},
        {"--clear", QIMG_BITMAP_CLEAR},     {"--remove-all", QIMG_BITMAP_REMOVE_ALL},
        {"--enable", QIMG_BITMAP_ENABLE},   {"--disable", QIMG_BITMAP_DISABLE},
        {"--recover", QIMG_BITMAP_RECOVER}, {"--merge", QIMG_BITMAP_MERGE},
    };
    QimgBitmapAction *action = g_new0(QimgBitmapAction, 1);
    Wanted *wanted = data;

    (void)error;
    action->struct_bytes = sizeof *action;
    action->source = g_intern_string(value);
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (g_str_equal(kinds[i].option, option))
            action->kind = kinds[i].kind;
    g_ptr_array_add(wanted->actions, action);
    return TRUE;
}

/* Whether each action has its operands; sets the granularity of added bitmaps. */
static bool
check_wanted(const CommandLine *line, const Wanted *wanted, GError **error)
{
    unsigned n_actions = wanted->actions->len;
    bool needs_name = wanted->extents, adds = false, merges = false;

    for (unsigned i = 0; i < n_actions; i++) {
        QimgBitmapAction *a = wanted->actions->pdata[i];

        needs_name |= a->kind != QIMG_BITMAP_REMOVE_ALL;
        merges |= a->kind == QIMG_BITMAP_MERGE;
        if (a->kind != QIMG_BITMAP_ADD)
            continue;
        adds = true;
        if (wanted->granularity &&
            !qimg_parse_size(wanted->granularity, &a->granularity_bytes, error))
            return false;
    }
    if ((wanted->source_file && !merges) ||
        (wanted->source_format && !wanted->source_file)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "-b FILE, and -F FORMAT with it, go with --merge");
        return false;
    }
    if (wanted->lists + wanted->extents + (n_actions > 0) == 1 &&
        line->n_operands == (needs_name ? 2 : 1) && (adds || !wanted->granularity))
        return true;
    g_set_error(
        error, QIMG_ERROR, QIMG_ERROR_USAGE,
        "give --list IMAGE, --extents IMAGE NAME, or actions, IMAGE and NAME (see "
        "qimg bitmap --help)");
    return false;
}

static int
run(const CommandLine *line, const Wanted *wanted)
{
    g_autoptr(GError) error = NULL;

    /* Bitmaps are not encrypted. */
    if (!qimg_options_set(line->image_options, "nokey", NULL, &error))
        return output_failure(NULL, error);

    if (!check_wanted(line, wanted, &error))
        return output_failure(NULL, error);
    return wanted->actions->len > 0 ? change(line, wanted) : show(line, wanted->extents);
}

int
cmd_bitmap(int argc, char **argv)
{
    Wanted wanted = {.actions = g_ptr_array_new_with_free_func(g_free)};
    gpointer take = (gpointer)take_action;
    const int no_value = G_OPTION_FLAG_NO_ARG;
    const GOptionEntry entries[] = {
        {"list", 0, 0, G_OPTION_ARG_NONE, &wanted.lists, "list the bitmaps", NULL},
        {"extents", 0, 0, G_OPTION_ARG_NONE, &wanted.extents,
         "show the dirty and clean parts of the disk in the bitmap NAME", NULL},
        {"add", 0, no_value, G_OPTION_ARG_CALLBACK, take, "make the bitmap, enabled",
         NULL},
        {"remove", 0, no_value, G_OPTION_ARG_CALLBACK, take, "remove the bitmap", NULL},
        {"remove-all", 0, no_value, G_OPTION_ARG_CALLBACK, take, "remove all bitmaps",
         NULL},
        {"clear", 0, no_value, G_OPTION_ARG_CALLBACK, take, "clear all bits", NULL},
        {"enable", 0, no_value, G_OPTION_ARG_CALLBACK, take, "record changes from now on",
         NULL},
        {"disable", 0, no_value, G_OPTION_ARG_CALLBACK, take, "record no changes", NULL},
        {"merge", 0, 0, G_OPTION_ARG_CALLBACK, take, "add the bits of the bitmap SOURCE",
         "SOURCE"},
        {"recover", 0, no_value, G_OPTION_ARG_CALLBACK, take,
         "make a bitmap usable that was left in use: all bits set", NULL},
        {"granularity", 'g', 0, G_OPTION_ARG_STRING, &wanted.granularity,
         "bytes that a bit of an added bitmap stands for", "SIZE"},
        {"source-file", 'b', 0, G_OPTION_ARG_FILENAME, &wanted.source_file,
         "the image with SOURCE, if it is another one", "FILE"},
        {"source-format", 'F', 0, G_OPTION_ARG_STRING, &wanted.source_format,
         "the format of that image", "FORMAT"},
        {0},
    };
    const CommandSpec spec = {
        .operands = "ACTION... IMAGE [NAME]",
        .summary =
            "Lists, shows and changes the persistent dirty bitmaps of an image.\n\n"
            "Changes are done in the order given: all of them, or nothing.",
        .min_operands = 1,
        .max_operands = 2,
        .has_output = true,
        .opens_image = true,
        .entries = entries,
        .user = &wanted,
    };
    CommandLine line;
    int exit_code;

    if (command_line_parse(&spec, argc, argv, &line, &exit_code)) {
        exit_code = run(&line, &wanted);
        command_line_clear(&line);
    }
    g_ptr_array_unref(wanted.actions);
    g_free(wanted.granularity);
    g_free(wanted.source_file);
    g_free(wanted.source_format);
    return exit_code;
}
