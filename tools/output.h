/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Output for people, and the list of subcommands. */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdint.h>

#include "qimg.h"

/* Exit codes, as qemu-img's. */
enum {
    EXIT_GOOD = 0,
    EXIT_FAILED = 1,
    EXIT_CORRUPT = 2,    /* check */
    EXIT_LEAKS = 3,      /* check: only leaks */
    EXIT_NO_CHECK = 63,  /* check: the format has no check */
    EXIT_DIFFERENT = 1,  /* compare */
    EXIT_NO_OPEN = 2,    /* compare: also a wrong command line */
    EXIT_BAD_MAP = 3,    /* compare: the allocation cannot be read */
    EXIT_BAD_READ = 4,   /* compare: the data cannot be read */
    EXIT_UNREADABLE = 2, /* copy-out: complete except for unreadable ranges */
};

/* Prints "qimg: FILE: the problem" and returns EXIT_FAILED. @file may be NULL. */
int output_failure(const char *file, const GError *error);

/* Prints the warnings of an open image to standard error. */
void output_warnings(const QimgImage *image);

/* A size for people: "64.0 MiB". Free with g_free. */
char *output_short_size(uint64_t bytes);

/* A size for people: "64 MiB (67108864 bytes)". Free with g_free. */
char *output_size(uint64_t bytes);

/* @text with control characters and bytes that are not UTF-8 escaped. Free with g_free.
 */
char *output_printable(const char *text);

/* Prints a table of snapshots, an array of objects as qimg_snapshot_json makes them. */
void output_snapshots(const json_t *list, int indent);

/* The subcommands. */
int cmd_bitmap(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_amend(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_commit(int argc, char **argv);
int cmd_create(int argc, char **argv);
int cmd_copy_out(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_map(int argc, char **argv);
int cmd_rebase(int argc, char **argv);
int cmd_resize(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
