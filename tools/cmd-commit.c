/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg commit: writes the data of an overlay into the image below it. */
#include <stdio.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

typedef struct {
    char *base;
    gboolean keeps;
    gboolean quiet;
} CommitArguments;

static int
commit_image(const CommandLine *line, const CommitArguments *a)
{
    const QimgCommitOptions options = {
        .struct_bytes = sizeof options,
        .base = a->base,
        .keep_overlay = a->keeps,
        .on_progress = progress_update,
    };
    const char *path = line->operands[0];
    g_autoptr(GError) error = NULL;
    bool is_done;

    interrupt_begin(NULL, NULL);
    progress_begin("committing", true, a->quiet);
    is_done = qimg_commit(path, line->image_options, &options, &error);
    progress_end();
    interrupt_end();
    if (!is_done)
        return output_failure(path, error);
    if (!a->quiet)
        printf("Image committed.\n");
    return EXIT_GOOD;
}

int
cmd_commit(int argc, char **argv)
{
    CommitArguments a = {0};
    const GOptionEntry entries[] = {
        {"base", 'b', 0, G_OPTION_ARG_FILENAME, &a.base,
         "a backing file further down (default: the image's own); the image is then not "
         "emptied",
         "FILE"},
        {"keep", 'd', 0, G_OPTION_ARG_NONE, &a.keeps, "do not empty the image", NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &a.quiet, "print nothing", NULL},
        {0},
    };
    const CommandSpec spec = {
        .operands = "IMAGE",
        .summary = "Writes the data of an image into its backing file, and empties the "
                   "image.",
        .min_operands = 1,
        .max_operands = 1,
        .opens_image = true,
        .has_progress = true,
        .entries = entries,
    };
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    exit_code = commit_image(&line, &a);
    command_line_clear(&line);
    g_free(a.base);
    return exit_code;
}
