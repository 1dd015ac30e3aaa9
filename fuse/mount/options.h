/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line: every mount option in one table, as --name=value and as -o
 * name=value. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#include "images/images.h"
#include "qimg.h"

typedef enum {
    COMMAND_MOUNT,
    COMMAND_HELP,
    COMMAND_VERSION,
    COMMAND_WAIT,
} Command;

typedef struct {
    Command command;
    GPtrArray *images; /* char *, as given */
    char *mountpoint;  /* as given; for COMMAND_WAIT, too */
    QimgOptions *image_options;
    GPtrArray *fuse_options; /* char *, "name" or "name=value" for libfuse */
    unsigned n_threads;      /* for answering requests */
    bool foreground;
    bool debug;
    bool verbose;
    bool quiet;         /* no hints */
    bool allow_other;   /* or allow_root */
    const char *access; /* "ro" or "rw", the last one given; NULL: neither */
    bool is_writable;   /* by rw or cow */
    bool is_cow;
    char *cow_file; /* NULL: a temporary overlay */
    bool no_lock;
    bool no_partitions;
    bool no_sandbox;
    uid_t uid;
    gid_t gid;
    mode_t umask;
    unsigned max_read_bytes; /* 0: libfuse's default */
    unsigned idle_s;         /* before an idle image of a directory is closed */
} Options;

/* Parses the command line. NULL with @error set (a text for the user) for a wrong one.
 * Free with options_free. */
Options *options_parse(int argc, char **argv, GError **error);
void options_free(Options *options);

/* The settings for the registry of images; borrows from @options. */
ImagesSettings options_for_images(const Options *options);

/* Prints the help to standard output. */
void options_print_help(void);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Options, options_free)
