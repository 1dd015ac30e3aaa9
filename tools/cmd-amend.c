/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg amend: changes properties of an image's header, or its key slots. */
#include <stdio.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"

typedef struct {
    GStrv lists;
    gboolean is_forced;
    gboolean quiet;
} AmendArguments;

static gboolean
set_amend_property(void *target, const char *name, const char *value, GError **error)
{
    return qimg_amend_set(target, name, value, error);
}

/* Signals kill the process while a key is derived; once something is written, it is
 * finished. */
static gboolean
amend_step(uint64_t done, uint64_t total, void *user)
{
    (void)done, (void)total, (void)user;
    return !interrupt_is_asked();
}

static int
amend_image(const CommandLine *line, const AmendArguments *a)
{
    g_autoptr(QimgAmend) amend = qimg_amend_new();
    g_autoptr(GError) error = NULL;
    const char *path = line->operands[0];

    qimg_process_hide_memory();
    for (char **list = a->lists; list && *list; list++)
        if (!command_line_set_list(*list, set_amend_property, amend, &error))
            return output_failure(NULL, error);
    if (line->format && !qimg_amend_set(amend, "format", line->format, &error))
        return output_failure(NULL, error);
    if (a->is_forced && !qimg_amend_set(amend, "force", NULL, &error))
        return output_failure(NULL, error);
    qimg_amend_set_ask_passphrase(amend, qimg_ask_on_terminal, qimg_ask_new_on_terminal,
                                  NULL);
    if (!qimg_amend_run(amend, path, amend_step, NULL, &error))
        return output_failure(path, error);
    for (const char *const *note = qimg_amend_get_notes(amend); !a->quiet && *note;
         note++)
        printf("%s: %s\n", path, *note);
    return EXIT_GOOD;
}

int
cmd_amend(int argc, char **argv)
{
    AmendArguments a = {0};
    const GOptionEntry entries[] = {
        {"options", 'o', 0, G_OPTION_ARG_FILENAME_ARRAY, &a.lists,
         "the change: compat=0.10 or 1.1, refcount_bits=, lazy_refcounts=on or off, "
         "data_file=, data_file_raw=off; "
         "encrypt.state=active or inactive, encrypt.keyslot=, "
         "encrypt.iter-time=, new_passphrase_file=, new_passphrase_fd=, "
         "old_passphrase_file=, old_passphrase_fd=; how to open the image: "
         "passphrase_file=, passphrase_fd=, max_iterations=, format=, nolock",
         "NAME=VALUE,..."},
        {"force", 0, 0, G_OPTION_ARG_NONE, &a.is_forced,
         "erase slots also if no other is known to open the image", NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &a.quiet, "print nothing", NULL},
        {0},
    };
    const CommandSpec spec = {
        .operands = "IMAGE",
        .summary = "Changes properties of an image, or adds, erases or changes "
                   "passphrases of an encrypted one.",
        .min_operands = 1,
        .max_operands = 1,
        .has_format = true,
        .has_progress = true,
        .entries = entries,
    };
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    exit_code = amend_image(&line, &a);
    command_line_clear(&line);
    g_strfreev(a.lists);
    return exit_code;
}
