/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg bitmap: lists, shows and changes the persistent bitmaps of an image. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "command-line.h"
#include "output.h"

static void
print_one(const QimgBitmap *bitmap)
{
    g_autofree char *name = output_printable(bitmap->name);
    g_autofree char *granularity = output_short_size(bitmap->granularity_bytes);
    const char *reason = qimg_bitmap_get_reason(bitmap);

    printf("%s: granularity %s, %s%s%s\n", name, granularity,
           bitmap->is_enabled ? "enabled" : "disabled", reason ? "; " : "",
           reason ? reason : "");
}

static int
list_bitmaps(const QimgBitmaps *list, bool json)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < qimg_bitmaps_get_n(list); i++) {
        if (json) {
            g_autofree char *text = qimg_bitmap_json(qimg_bitmaps_get(list, i));

            json_array_append_new(all, json_loads(text, 0, NULL));
        } else {
            print_one(qimg_bitmaps_get(list, i));
        }
    }
    if (json) {
        json_dumpf(all, stdout, JSON_INDENT(4));
        putchar('\n');
    }
    json_decref(all);
    return EXIT_GOOD;
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
print_extents_json(QimgBitmapReader *reader, const QimgBitmap *bitmap, const char *path)
{
    g_autoptr(GString) piece = g_string_new(NULL);
    uint64_t place = 0;

    do {
        int err;

        g_string_truncate(piece, 0);
        err = qimg_bitmap_reader_next_json(reader, 0, &place, piece);
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

static int
print_extents(QimgImage *image, QimgBitmaps *list, const CommandLine *line)
{
    const char *path = line->operands[0];
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgBitmapReader) reader = NULL;
    const QimgBitmap *bitmap;
    unsigned place;

    if (!qimg_bitmaps_find(list, line->operands[1], &place, &error))
        return output_failure(path, error);
    bitmap = qimg_bitmaps_get(list, place);
    if (qimg_bitmap_get_reason(bitmap))
        return extents_failed(path, bitmap, -EINVAL);
    reader = qimg_bitmap_reader_new(image, list, place);
    return line->json ? print_extents_json(reader, bitmap, path)
                      : print_extents_human(reader, bitmap, path);
}

/* The options of the command line. */
typedef struct {
    gboolean lists, extents;
    GPtrArray *actions; /* QimgBitmapAction *, in the order given */
    char *granularity;
    char *format;
} Wanted;

static int
show(const CommandLine *line, bool extents)
{
    const char *path = line->operands[0];
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = NULL;
    g_autoptr(QimgBitmaps) list = NULL;

    image = qimg_image_open(path, line->image_options, &error);
    if (image)
        list = qimg_image_read_bitmaps(image, &error);
    if (!list)
        return output_failure(path, error);
    output_warnings(image);
    if (qimg_bitmaps_get_damage(list))
        fprintf(stderr, "qimg: warning: %s: %s (qimg check)\n", path,
                qimg_bitmaps_get_damage(list));
    return extents ? print_extents(image, list, line) : list_bitmaps(list, line->json);
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

static int
change(const CommandLine *line, const Wanted *wanted)
{
    const char *path = line->operands[0];
    const char *name = line->n_operands > 1 ? line->operands[1] : NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = open_to_change(line, wanted, &error);
    int err;

    if (!image ||
        !qimg_image_change_bitmaps(
            image, name, (const QimgBitmapAction *const *)wanted->actions->pdata,
            wanted->actions->len, &error))
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
    bool needs_name = wanted->extents, adds = false;

    for (unsigned i = 0; i < n_actions; i++) {
        QimgBitmapAction *a = wanted->actions->pdata[i];

        needs_name |= a->kind != QIMG_BITMAP_REMOVE_ALL;
        if (a->kind != QIMG_BITMAP_ADD)
            continue;
        adds = true;
        if (wanted->granularity &&
            !qimg_parse_size(wanted->granularity, &a->granularity_bytes, error))
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

    if (!check_wanted(line, wanted, &error) ||
        (wanted->format &&
         !qimg_options_set(line->image_options, "format", wanted->format, &error)))
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
        {"format", 'f', 0, G_OPTION_ARG_STRING, &wanted.format, "as -o format=FORMAT",
         "FORMAT"},
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
    g_free(wanted.format);
    return exit_code;
}
