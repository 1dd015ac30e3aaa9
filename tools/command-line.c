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
    static const char *const names[] = {
        "format",          "backing",       "backing_map",    "l2_cache",
        "data_cache",      "threads",       "nolock",         "direct",
        "passphrase_file", "passphrase_fd", "max_iterations", NULL};

    if (g_strv_contains(names, name))
        return qimg_options_set(target, name, value, error);
    g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE, "%s: no such option", name);
    return FALSE;
}

static gssize
ask_hidden(const char *path, unsigned n_asked, uint8_t *bytes, size_t size_bytes,
           void *user)
{
    qimg_process_hide_memory();
    return qimg_ask_on_terminal(path, n_asked, bytes, size_bytes, user);
}

/* The values of the options that several subcommands have. */
typedef struct {
    char *output;
    GStrv lists;
    char *format;
    gboolean force_share;
    gboolean progress; /* changes nothing: it is shown on a terminal anyway */
    gboolean wants_help;
} Common;

static void
common_clear(Common *common)
{
    g_free(common->output);
    g_strfreev(common->lists);
    g_free(common->format);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Common, common_clear)

/* -f and -U come last: they are more explicit than -o. */
QimgOptions *
command_line_new_options(char **lists, const char *format, bool no_lock)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    bool is_good = true;

    qimg_options_set_ask_passphrase(options, ask_hidden, options);
    for (char **list = lists; is_good && list && *list; list++)
        is_good = command_line_set_list(*list, set_image_option, options, &error);
    if (is_good && format)
        is_good = qimg_options_set(options, "format", format, &error);
    if (is_good && no_lock)
        is_good = qimg_options_set(options, "nolock", NULL, &error);
    if (!is_good) {
        output_failure(NULL, error);
        return NULL;
    }
    if (qimg_options_has_passphrase(options))
        qimg_process_hide_memory();
    return g_steal_pointer(&options);
}

/* Sets the common results from the parsed options. */
static bool
set_common(CommandLine *line, const CommandSpec *spec, Common *common)
{
    const char *output = common->output;

    if (output && strcmp(output, "json") != 0 && strcmp(output, "human") != 0) {
        fprintf(stderr, "qimg: --output=%s: give human or json\n", output);
        return false;
    }
    line->json = output && strcmp(output, "json") == 0;
    line->image_options = command_line_new_options(
        common->lists, spec->opens_image ? common->format : NULL, common->force_share);
    if (!line->image_options)
        return false;
    line->format = g_steal_pointer(&common->format);
    return true;
}

#define HELP_COLUMNS 80u

/* Prints @line, broken at blanks; further lines begin where its last column does, the
 * description of an option. */
static void
print_wrapped(const char *line)
{
    size_t indent = strspn(line, " "), column;
    g_auto(GStrv) words = NULL;

    for (const char *c = line + indent; (c = strstr(c, "  ")); c += strspn(c, " "))
        indent = (size_t)(c - line) + strspn(c, " ");
    words = g_strsplit(line + indent, " ", -1);
    column = (size_t)printf("%.*s", (int)indent, line);
    for (char **word = words; *word; word++) {
        if (column > indent && column + 1 + strlen(*word) > HELP_COLUMNS) {
            printf("\n%*s", (int)indent, "");
            column = indent;
        }
        column += (size_t)printf("%s%s", column > indent ? " " : "", *word);
    }
    putchar('\n');
}

/* GLib's own help has lines of any length, and an ellipsis character, which is a "?" in
 * the C locale. */
static void
print_command_help(GOptionContext *context)
{
    g_autofree char *help = g_option_context_get_help(context, TRUE, NULL);
    g_auto(GStrv) parts = g_strsplit(help, "\342\200\246", -1);
    g_autofree char *plain = g_strjoinv("...", parts);
    g_auto(GStrv) lines = g_strsplit(g_strchomp(plain), "\n", -1);

    for (char **line = lines; *line; line++)
        print_wrapped(*line);
}

/* The right option for one that users know from other programs, or NULL. */
static const char *
find_habit(const char *message)
{
    static const struct {
        const char *option, *instead;
    } habits[] = {
        {"--json", "--output=json"},
        {"-p", "progress is shown on a terminal"},
        {"-O", "copies are raw; qemu-img convert makes other formats"},
        {"-c", "copies are raw; qemu-img convert makes other formats"},
        {"-T", "-o direct bypasses the page cache"},
        {"-t", "-o direct bypasses the page cache"},
        {"-l", "--snapshot=NAME, or qimg snapshot list"},
        {"-a", "qimg snapshot revert"},
    };
    const char *option = strrchr(message, ' ');

    for (size_t i = 0; option && i < G_N_ELEMENTS(habits); i++)
        if (strcmp(option + 1, habits[i].option) == 0)
            return habits[i].instead;
    return NULL;
}

bool
command_line_parse(const CommandSpec *spec, int argc, char **argv, CommandLine *out,
                   int *exit_code_out)
{
    g_auto(Common) common = {0};
    const GOptionEntry output_entries[] = {
        {"output", 0, 0, G_OPTION_ARG_STRING, &common.output,
         "human (the default) or json", "FORMAT"},
        {0},
    };
    const GOptionEntry image_entries[] = {
        {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &common.lists,
         "how to open the image: format=, backing=, backing_map=, l2_cache=, "
         "data_cache=, "
         "threads=, nolock, direct, passphrase_file=, passphrase_fd=, max_iterations=; "
         "as "
         "for qcowfs",
         "NAME=VALUE,..."},
        {"force-share", 'U', 0, G_OPTION_ARG_NONE, &common.force_share,
         "the same as -o nolock: open an image in use", NULL},
        {0},
    };
    const GOptionEntry format_entries[] = {
        {"format", 'f', 0, G_OPTION_ARG_STRING, &common.format,
         "of the image: qcow2, qed, qcow, luks or raw (default: probed)", "FORMAT"},
        {0},
    };
    const GOptionEntry progress_entries[] = {
        {"progress", 'p', 0, G_OPTION_ARG_NONE, &common.progress,
         "accepted; progress is shown on a terminal anyway", NULL},
        {0},
    };
    const GOptionEntry help_entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &common.wants_help, "print this help", NULL},
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
    if (spec->opens_image || spec->has_format)
        g_option_context_add_main_entries(context, format_entries, NULL);
    if (spec->has_progress)
        g_option_context_add_main_entries(context, progress_entries, NULL);
    g_option_context_add_main_entries(context, help_entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        const char *habit = find_habit(error->message);

        fprintf(stderr, "qimg: %s (%s%ssee %s --help)\n", error->message,
                habit ? habit : "", habit ? "; " : "", name);
        return false;
    }
    if (common.wants_help) {
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
    return set_common(out, spec, &common);
}

void
command_line_clear(CommandLine *line)
{
    g_clear_pointer(&line->image_options, qimg_options_free);
    g_clear_pointer(&line->format, g_free);
}
