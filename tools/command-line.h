/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Parsing the command line of a subcommand. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "qimg.h"

/* The arguments of a subcommand. */
typedef struct {
    const char *operands; /* as shown in the help: "IMAGE [SIZE]" */
    const char *summary;  /* a sentence or more for the help */
    unsigned min_operands;
    unsigned max_operands;
    bool has_output;             /* --output=human|json */
    bool opens_image;            /* -o NAME=VALUE,..., -f FORMAT, -U */
    bool has_format;             /* only -f FORMAT */
    bool has_progress;           /* -p */
    const GOptionEntry *entries; /* the subcommand's own options; NULL: none */
    void *user;                  /* passed to callbacks of @entries */
} CommandSpec;

typedef struct {
    bool json;
    char *format;               /* owned: -f without opens_image; NULL: not given */
    QimgOptions *image_options; /* owned */
    char **operands;            /* borrowed from argv */
    unsigned n_operands;
} CommandLine;

/* Parses the arguments after the subcommand's name, argv[0]. True: clear @out after use.
 * False after printing the error or the requested help, with *@exit_code_out. */
bool command_line_parse(const CommandSpec *spec, int argc, char **argv, CommandLine *out,
                        int *exit_code_out);
void command_line_clear(CommandLine *line);

/* Options for opening an image: those of the lists @lists (of -o; NULL: none), the format
 * @format (NULL: probed) and, with @no_lock, without locks. NULL after printing the
 * error. */
QimgOptions *command_line_new_options(char **lists, const char *format, bool no_lock);

/* Sets one option of @target; @value is NULL if not given. */
typedef gboolean OptionSetter(void *target, const char *name, const char *value,
                              GError **error);

/* Calls @set for each element of the list NAME[=VALUE],... in turn until it fails; a
 * backslash escapes the next character, as for qcowfs. */
bool command_line_set_list(const char *list, OptionSetter *set, void *target,
                           GError **error);
