/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg resize: changes the size of an image's disk. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

typedef struct {
    const char *path;
    const char *size; /* as given, with its sign */
    gboolean shrink;
    gboolean quiet;
    QimgPreallocation preallocation;
} Request;

/* The new size; false with @error set if it is invalid. */
static bool
compute_size(const Request *r, uint64_t old_bytes, uint64_t *out, GError **error)
{
    bool is_relative = *r->size == '+' || *r->size == '-';
    uint64_t bytes = 0;

    if (!qimg_parse_size(r->size + is_relative, &bytes, error))
        return false;
    if (*r->size == '-' ? bytes > old_bytes
                        : is_relative && bytes > UINT64_MAX - old_bytes) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "%s: is outside the range of sizes (the disk has %" G_GUINT64_FORMAT
                    " bytes)",
                    r->size, (guint64)old_bytes);
        return false;
    }
    if (is_relative)
        bytes = *r->size == '-' ? old_bytes - bytes : old_bytes + bytes;
    *out = bytes;
    return true;
}

static const char *
explain(int err)
{
    switch (err) {
    case -EFBIG:
        return "the format cannot map a disk of that size with these clusters";
    case -EBUSY:
        return "a bitmap of the image is in use or damaged, or the disk would have no "
               "bytes (remove the bitmap first; qimg bitmap --list shows them)";
    case -EOPNOTSUPP:
        return "not possible with this image: it is a device, of version 2 with "
               "snapshots, raw without metadata, or QED, which cannot shrink";
    case -EROFS:
        return "damage was found in the image, and it is left alone (look with qemu-img "
               "check)";
    case -ECANCELED:
        return "was canceled: the disk has its old size";
    default:
        return g_strerror(-err);
    }
}

static int
fail(const Request *r, const char *text)
{
    fprintf(stderr, "qimg: %s: %s\n", r->path, text);
    return EXIT_FAILED;
}

static int
change_size(QimgImage *image, uint64_t bytes, const Request *r)
{
    bool grows = bytes > qimg_image_get_size_bytes(image);
    int err;

    interrupt_begin(NULL, NULL);
    progress_begin(grows ? "growing" : "freeing", false, r->quiet);
    err = grows ? qimg_image_grow(image, bytes, r->preallocation, progress_update, NULL)
                : qimg_image_resize(image, bytes, progress_update, NULL);
    progress_end();
    interrupt_end();
    return err;
}

static int
resize(QimgImage *image, const Request *r)
{
    uint64_t old_bytes = qimg_image_get_size_bytes(image);
    g_autofree char *old_text = output_size(old_bytes);
    g_autofree char *new_text = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t bytes = 0;
    int err = 0;

    if (!compute_size(r, old_bytes, &bytes, &error))
        return output_failure(r->path, error);
    if (bytes < old_bytes && !r->shrink)
        return fail(r, "that is smaller, and data behind the new end would be lost (give "
                       "--shrink if that is meant)");
    if (bytes <= old_bytes && r->preallocation != QIMG_PREALLOCATION_OFF)
        return fail(r, "--preallocation: the disk does not grow (leave it out)");
    if (bytes != old_bytes)
        err = change_size(image, bytes, r);
    if (err == -ECANCELED && bytes < old_bytes)
        return fail(r, "was canceled: the disk has its new size, and not all of the "
                       "space behind it was freed (that is when it grows again)");
    if (!err)
        err = qimg_image_flush(image);
    if (err)
        return fail(r, explain(err));
    new_text = output_size(qimg_image_get_size_bytes(image));
    if (!r->quiet)
        printf("%s: %s, was %s\n", r->path, new_text, old_text);
    return EXIT_GOOD;
}

/* Removes a size like -1G from the arguments, since it looks like an option. */
static const char *
take_negative(int *argc, char **argv)
{
    for (int i = 1; i < *argc; i++) {
        if (argv[i][0] == '-' && g_ascii_isdigit(argv[i][1])) {
            const char *size = argv[i];

            memmove(argv + i, argv + i + 1, (size_t)(*argc - i) * sizeof *argv);
            (*argc)--;
            return size;
        }
    }
    return NULL;
}

static int
open_and_resize(const CommandLine *line, Request *r)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = NULL;

    if (!qimg_options_set(line->image_options, "rw", NULL, &error))
        return output_failure(NULL, error);
    image = qimg_image_open(r->path, line->image_options, &error);
    if (!image)
        return output_failure(r->path, error);
    output_warnings(image);
    return resize(image, r);
}

int
cmd_resize(int argc, char **argv)
{
    Request r = {.size = take_negative(&argc, argv)};
    g_autofree char *preallocation = NULL;
    const GOptionEntry entries[] = {
        {"shrink", 0, 0, G_OPTION_ARG_NONE, &r.shrink, "allow a smaller size", NULL},
        {"preallocation", 0, 0, G_OPTION_ARG_STRING, &preallocation,
         "storage of the added part: off (the default), metadata, falloc or full",
         "MODE"},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &r.quiet, "print nothing on success", NULL},
        {0},
    };
    CommandSpec spec = {
        .operands = "IMAGE [+|-]SIZE",
        .summary = "Changes the size of the disk to SIZE, or by it.",
        .min_operands = r.size ? 1 : 2,
        .max_operands = r.size ? 1 : 2,
        .opens_image = true,
        .entries = entries,
    };
    g_autoptr(GError) error = NULL;
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    r.path = line.operands[0];
    if (!r.size)
        r.size = line.operands[1];
    if (preallocation &&
        !qimg_preallocation_find(preallocation, &r.preallocation, &error))
        exit_code = output_failure(NULL, error);
    else
        exit_code = open_and_resize(&line, &r);
    command_line_clear(&line);
    return exit_code;
}
