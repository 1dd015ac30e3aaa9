/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg rebase: gives an image another backing file. */
#include <stdio.h>
#include <string.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

typedef struct {
    char *backing_file, *backing_format;
    gboolean header_only;
    gboolean quiet;
} RebaseArguments;

static int
rebase(const CommandLine *line, const RebaseArguments *a)
{
    const QimgRebaseOptions options = {
        .struct_bytes = sizeof options,
        .backing_file = a->backing_file,
        .backing_format = a->backing_format,
        .header_only = a->header_only,
        .on_progress = progress_update,
    };
    g_autoptr(GError) error = NULL;
    bool is_done;

    interrupt_begin(NULL, NULL);
    progress_begin("comparing", true, a->quiet);
    is_done = qimg_rebase(line->operands[0], line->image_options, &options, &error);
    progress_end();
    interrupt_end();
    return is_done ? EXIT_GOOD : output_failure(line->operands[0], error);
}

int
cmd_rebase(int argc, char **argv)
{
    RebaseArguments a = {0};
    const GOptionEntry entries[] = {
        {"backing-file", 'b', 0, G_OPTION_ARG_FILENAME, &a.backing_file,
         "the new backing file; relative to the image's directory; '': none", "FILE"},
        {"backing-fmt", 'F', 0, G_OPTION_ARG_STRING, &a.backing_format,
         "of the new backing file: qcow2, qed, qcow or raw; must be given", "FORMAT"},
        {"unsafe", 'u', 0, G_OPTION_ARG_NONE, &a.header_only,
         "change the name alone: the disk may show something else", NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &a.quiet, "show no progress", NULL},
        {0},
    };
    const CommandSpec spec = {
        .operands = "IMAGE",
        .summary = "Gives an image another backing file; the disk stays the same.",
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
    if (a.backing_file) {
        exit_code = rebase(&line, &a);
    } else {
        fprintf(stderr,
                "qimg rebase: give -b FILE -F FORMAT, or -b '' for none (see qimg "
                "rebase --help)\n");
        exit_code = EXIT_FAILED;
    }
    command_line_clear(&line);
    g_free(a.backing_file);
    g_free(a.backing_format);
    return exit_code;
}
