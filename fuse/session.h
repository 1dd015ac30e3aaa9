/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The libfuse session: mounting, the threads that answer, signals, and the end. */
#pragma once

#include "images/dir-watch.h"
#include "mount/options.h"
#include "sandbox/sandbox.h"
#include "tree/tree.h"

typedef struct Session Session;

/* Mounts @tree at @options->mountpoint. NULL with @error set. The tree stays the caller's
 * and outlives the session, and so does @watch, which is told of the kernel and may be
 * NULL. */
Session *session_mount(const Options *options, const Tree *tree, DirWatch *watch,
                       GError **error);

/* Gives up what the session does not need from here on, and enters @sandbox; with NULL,
 * no privilege is given up. In the process that will run, before any thread is made.
 * *@report_out is as of sandbox_enter, and left alone without a sandbox. */
bool session_confine(Session *session, Sandbox *sandbox, char **report_out,
                     GError **error);

/* Answers requests until the mount ends or a signal (SIGINT, SIGTERM, SIGHUP) asks for
 * it, then unmounts. While files are open for writing, the first signal takes the mount
 * out of the tree of files, and the end comes when they are closed, or with the second.
 * False with @error set when the kernel's answers make no sense. */
bool session_run(Session *session, GError **error);

/* Unmounts, if that has not happened, and frees. */
void session_free(Session *session);
