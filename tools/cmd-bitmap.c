/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg bitmap: lists the persistent bitmaps of an image, and shows their extents. */
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

static int
run(const CommandLine *line, bool extents)
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

int
cmd_bitmap(int argc, char **argv)
{
    gboolean lists = FALSE, extents = FALSE;
    const GOptionEntry entries[] = {
        {"list", 0, 0, G_OPTION_ARG_NONE, &lists, "list the bitmaps of the image", NULL},
        {"extents", 0, 0, G_OPTION_ARG_NONE, &extents,
         "show which parts of the disk are dirty in the bitmap NAME", NULL},
        {0},
    };
    const CommandSpec spec = {
        .operands = "--list|--extents IMAGE [NAME]",
        .summary = "Shows the persistent dirty bitmaps of an image.",
        .min_operands = 1,
        .max_operands = 2,
        .has_output = true,
        .opens_image = true,
        .entries = entries,
    };
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    if (lists == extents || line.n_operands != (extents ? 2 : 1)) {
        fprintf(stderr, "qimg bitmap: give --list IMAGE, or --extents IMAGE NAME (see "
                        "qimg bitmap --help)\n");
        exit_code = EXIT_FAILED;
    } else {
        exit_code = run(&line, extents);
    }
    command_line_clear(&line);
    return exit_code;
}
