/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg: the maintenance tool; each subcommand has its own file. */
#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "output.h"

static const struct {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"amend", "change properties, or passphrases of an encrypted image", cmd_amend},
    {"bitmap", "list, show and change persistent dirty bitmaps", cmd_bitmap},
    {"check", "whether an image is sound; repairs it", cmd_check},
    {"compare", "whether two disks have the same content", cmd_compare},
    {"commit", "write the data of an image into its backing file", cmd_commit},
    {"copy-out", "copies a disk to a raw file, with digests", cmd_copy_out},
    {"create", "make a new image", cmd_create},
    {"info", "what an image and its backing files are", cmd_info},
    {"map", "where each part of the disk is stored", cmd_map},
    {"rebase", "give an image another backing file", cmd_rebase},
    {"resize", "change the size of the disk", cmd_resize},
    {"snapshot", "list or change internal snapshots, go back to one", cmd_snapshot},
};

/* Subcommands of other programs. */
static const struct {
    const char *name, *instead;
} habits[] = {
    {"convert", "qimg copy-out copies to a raw file, qemu-img convert to other formats"},
    {"dd", "qimg copy-out copies to a raw file"},
    {"copy", "qimg copy-out"},
    {"measure", "qemu-img measure"},
    {"repair", "qimg check --repair"},
    {"mount", "qcowfs IMAGE MOUNTPOINT"},
    {"list", "qimg snapshot list, qimg bitmap list"},
    {"snapshots", "qimg snapshot list"},
    {"bitmaps", "qimg bitmap list"},
};

static const char *
find_subcommand_habit(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(habits); i++)
        if (strcmp(habits[i].name, name) == 0)
            return habits[i].instead;
    return NULL;
}

static void
print_program_help(FILE *out)
{
    fprintf(out, "usage: qimg SUBCOMMAND [OPTIONS] IMAGE\n\n");
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++)
        fprintf(out, "  %-10s%s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\nqimg SUBCOMMAND --help tells more.\n");
}

/* The exit status of a command that ended with @exit_code; an output error counts. */
static int
finish_output(int exit_code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return exit_code;
    fprintf(stderr, "qimg: standard output: cannot write: %s (make space there)\n",
            g_strerror(errno));
    return exit_code == EXIT_GOOD ? EXIT_FAILED : exit_code;
}

/* "help" alone is --help; "help SUBCOMMAND" becomes "SUBCOMMAND --help" in @argv. */
static void
take_help(int argc, char **argv)
{
    static char option[] = "--help";

    if (argc < 2 || strcmp(argv[1], "help") != 0)
        return;
    argv[1] = argc > 2 ? argv[2] : option;
    if (argc > 2)
        argv[2] = option;
}

int
main(int argc, char **argv)
{
    const char *habit;

    take_help(argc, argv);

    if (argc < 2) {
        print_program_help(stderr);
        return EXIT_FAILED;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_program_help(stdout);
        return EXIT_GOOD;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("qimg %s\n", qimg_version());
        return EXIT_GOOD;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return finish_output(commands[i].run(argc - 1, argv + 1));
    habit = find_subcommand_habit(argv[1]);
    fprintf(stderr, "qimg: %s: no such subcommand (%s%ssee qimg --help)\n", argv[1],
            habit ? habit : "", habit ? "; " : "");
    return EXIT_FAILED;
}
