/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options and messages of the subcommands. */
#include "output.h"

#include <stdio.h>
#include <string.h>

/* Sets one element of a list, NAME or NAME=VALUE. */
static bool
set_image_option(QimgOptions *options, const char *element, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(element, "=", 2);

    return !*element || qimg_options_set(options, parts[0], parts[1], error);
}

/* Sets the elements of a list; a backslash keeps the next character, as for qcowfs. */
static bool
set_image_options(QimgOptions *options, const char *list, GError **error)
{
    g_autoptr(GString) element = g_string_new(NULL);

    for (; *list; list++) {
        if (*list == ',') {
            if (!set_image_option(options, element->str, error))
                return false;
            g_string_truncate(element, 0);
            continue;
        }
        list += *list == '\\' && list[1];
        g_string_append_c(element, *list);
    }
    return set_image_option(options, element->str, error);
}

bool
command_line_parse(int argc, char **argv, const char *summary, CommandLine *out,
                   int *exit_code_out)
{
    g_autofree char *output = NULL;
    g_auto(GStrv) lists = NULL;
    const GOptionEntry entries[] = {
        {"output", 0, 0, G_OPTION_ARG_STRING, &output, "human (the default) or json",
         "FORMAT"},
        {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &lists,
         "how to open the image: format=, backing=, backing_map=, l2_cache=, nolock; as "
         "for qcowfs",
         "NAME=VALUE,..."},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("IMAGE");
    g_autofree char *name = g_strconcat("qimg ", argv[0], NULL);
    g_autoptr(GError) error = NULL;
    bool is_good = true;

    *exit_code_out = EXIT_FAILED;
    g_set_prgname(name); /* for the help */
    g_option_context_set_summary(context, summary);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        output_failure(NULL, error);
        return false;
    }
    if (argc != 2) {
        fprintf(stderr, "qimg: give one image (see qimg %s --help)\n", argv[0]);
        return false;
    }
    if (output && strcmp(output, "json") != 0 && strcmp(output, "human") != 0) {
        fprintf(stderr, "qimg: --output=%s: give human or json\n", output);
        return false;
    }
    *out = (CommandLine){
        .json = output && strcmp(output, "json") == 0,
        .image_options = qimg_options_new(),
        .path = argv[1],
    };
    for (char **list = lists; is_good && list && *list; list++)
        is_good = set_image_options(out->image_options, *list, &error);
    if (is_good)
        return true;
    output_failure(NULL, error);
    command_line_clear(out);
    return false;
}

void
command_line_clear(CommandLine *line)
{
    g_clear_pointer(&line->image_options, qimg_options_free);
}

int
output_failure(const char *file, const GError *error)
{
    fprintf(stderr, "qimg: %s%s%s\n", file ? file : "", file ? ": " : "", error->message);
    return EXIT_FAILED;
}

void
output_warnings(const QimgImage *image)
{
    for (const char *const *w = qimg_image_get_warnings(image); *w; w++)
        fprintf(stderr, "qimg: warning: %s\n", *w);
}

char *
output_size(uint64_t bytes)
{
    g_autofree char *short_form = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);

    return g_strdup_printf("%s (%" G_GUINT64_FORMAT " bytes)", short_form,
                           (guint64)bytes);
}

char *
output_printable(const char *text)
{
    GString *out = g_string_new(NULL);

    for (const char *c = text; *c;) {
        gunichar u = g_utf8_get_char_validated(c, -1);

        if (u == (gunichar)-1 || u == (gunichar)-2 || g_unichar_iscntrl(u)) {
            g_string_append_printf(out, "\\x%02x", (unsigned char)*c);
            c++;
        } else {
            g_string_append_unichar(out, u);
            c = g_utf8_next_char(c);
        }
    }
    return g_string_free(out, FALSE);
}
