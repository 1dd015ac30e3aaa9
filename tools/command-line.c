/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options shared by all subcommands, and those of one subcommand. */
#include "command-line.h"

#include <stdio.h>
#include <string.h>

#include "output.h"

bool
command_line_set_list(const char *list, OptionSetter *set, void *target, GError **error)
{
    g_auto(GStrv) elements = qimg_options_split(list);

    for (char **element = elements; *element; element++) {
        g_auto(GStrv) parts = g_strsplit(*element, "=", 2);

        if (!set(target, parts[0], parts[1], error))
            return false;
    }
    return true;
}

/* Only options for opening; a subcommand itself decides whether it changes the image. */
static gboolean
set_image_option(void *target, const char *name, const char *value, GError **error)
{
    static const char *const names[] = {"format",   "backing",    "backing_map",
                                        "l2_cache", "data_cache", "threads",
                                        "nolock",   "direct",     NULL};

    if (g_strv_contains(names, name))
        return qimg_options_set(target, name, value, error);
    g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE, "%s: no such option", name);
    return FALSE;
}

/* Sets the common results from the parsed options. */
static bool
set_common(CommandLine *line, const char *output, char **lists)
{
    g_autoptr(GError) error = NULL;

    if (output && strcmp(output, "json") != 0 && strcmp(output, "human") != 0) {
        fprintf(stderr, "qimg: --output=%s: give human or json\n", output);
        return false;
    }
    line->json = output && strcmp(output, "json") == 0;
    line->image_options = qimg_options_new();
    for (char **list = lists; list && *list; list++) {
        if (!command_line_set_list(*list, set_image_option, line->image_options,
                                   &error)) {
            output_failure(NULL, error);
            command_line_clear(line);
            return false;
        }
    }
    return true;
}

/* GLib's own help ends in an ellipsis character, which is a "?" in the C locale. */
static void
print_command_help(GOptionContext *context)
{
    g_autofree char *help = g_option_context_get_help(context, TRUE, NULL);
    g_auto(GStrv) parts = g_strsplit(help, "\342\200\246", -1);
    g_autofree char *plain = g_strjoinv("...", parts);

    fputs(plain, stdout);
}

bool
command_line_parse(const CommandSpec *spec, int argc, char **argv, CommandLine *out,
                   int *exit_code_out)
{
    g_autofree char *output = NULL;
    g_auto(GStrv) lists = NULL;
    const GOptionEntry output_entries[] = {
        {"output", 0, 0, G_OPTION_ARG_STRING, &output, "human (the default) or json",
         "FORMAT"},
        {0},
    };
    const GOptionEntry image_entries[] = {
        {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &lists,
         "how to open the image: format=, backing=, backing_map=, l2_cache=, "
         "data_cache=, "
         "threads=, nolock, direct; as for qcowfs",
         "NAME=VALUE,..."},
        {0},
    };
    gboolean wants_help = FALSE;
    const GOptionEntry help_entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &wants_help, "print this help", NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new(spec->operands);
    g_autofree char *name = g_strconcat("qimg ", argv[0], NULL);
    g_autoptr(GError) error = NULL;
    unsigned n_operands;

    *exit_code_out = EXIT_FAILED;
    g_set_prgname(name); /* for the help */
    g_option_context_set_summary(context, spec->summary);
    g_option_context_set_help_enabled(context, FALSE);
    if (spec->user)
        g_option_context_set_main_group(
            context, g_option_group_new("main", "", "", spec->user, NULL));
    if (spec->entries)
        g_option_context_add_main_entries(context, spec->entries, NULL);
    if (spec->has_output)
        g_option_context_add_main_entries(context, output_entries, NULL);
    if (spec->opens_image)
        g_option_context_add_main_entries(context, image_entries, NULL);
    g_option_context_add_main_entries(context, help_entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        output_failure(NULL, error);
        return false;
    }
    if (wants_help) {
        print_command_help(context);
        *exit_code_out = EXIT_GOOD;
        return false;
    }
    /* "--" ends the options; GLib may leave it in place, and it is no operand. */
    if (argc > 1 && strcmp(argv[1], "--") == 0) {
        argv++;
        argc--;
    }
    n_operands = (unsigned)argc - 1;
    if (n_operands < spec->min_operands || n_operands > spec->max_operands) {
        fprintf(stderr, "%s: give %s (see %s --help)\n", name, spec->operands, name);
        return false;
    }
    *out = (CommandLine){.operands = argv + 1, .n_operands = n_operands};
    return set_common(out, output, lists);
}

void
command_line_clear(CommandLine *line)
{
    g_clear_pointer(&line->image_options, qimg_options_free);
}
