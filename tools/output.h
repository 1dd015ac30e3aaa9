/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the subcommands share: their options, and how they speak to people. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "qimg.h"

/* Exit codes, as qemu-img's. */
enum {
    EXIT_GOOD = 0,
    EXIT_FAILED = 1,
};

typedef struct {
    bool json;
    QimgOptions *image_options;
    const char *path; /* the image; borrowed from argv */
} CommandLine;

/* Parses "[--output=human|json] [-o LIST] IMAGE"; false after printing what is wrong, or
 * with *@exit_code_out 0 after printing the help. */
bool command_line_parse(int argc, char **argv, const char *summary, CommandLine *out,
                        int *exit_code_out);
void command_line_clear(CommandLine *line);

/* Prints "qimg: FILE: what is wrong" and returns EXIT_FAILED. @file may be NULL. */
int output_failure(const char *file, const GError *error);

/* Prints the warnings of an open image to standard error. */
void output_warnings(const QimgImage *image);

/* A size for people: "64 MiB (67108864 bytes)". Free with g_free. */
char *output_size(uint64_t bytes);

/* @text with control characters and bytes that are not UTF-8 escaped. Free with g_free.
 */
char *output_printable(const char *text);

/* The subcommands. */
int cmd_info(int argc, char **argv);
int cmd_map(int argc, char **argv);
