/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The libfuse session: mounting, the threads that answer, signals, and the end. */
#pragma once

#include "dir-watch.h"
#include "options.h"
#include "tree.h"

typedef struct Session Session;

/* Mounts @tree at @options->mountpoint. NULL with @error set. The tree stays the caller's
 * and outlives the session, and so does @watch, which is told of the kernel and may be
 * NULL. */
Session *session_mount(const Options *options, const Tree *tree, DirWatch *watch,
                       GError **error);

/* Leaves the terminal: returns in a background process, while the first one exits with 0.
 * Before any thread is made. */
bool session_detach(Session *session, GError **error);

/* Answers requests until the mount ends or a signal (SIGINT, SIGTERM, SIGHUP) asks for
 * it, then unmounts. False with @error set when the kernel's answers make no sense. */
bool session_run(Session *session, GError **error);

/* Unmounts, if that has not happened, and frees. */
void session_free(Session *session);
