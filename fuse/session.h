/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The libfuse session: mounting, the serving threads, signals, and the end. */
#pragma once

#include "images/dir-watch.h"
#include "mount/options.h"
#include "sandbox/sandbox.h"
#include "tree/tree.h"

typedef struct Session Session;

/* Mounts @tree at @options->mountpoint. NULL with @error set. The caller keeps @tree and
 * @watch, which must outlive the session; @watch is given the connection to the kernel
 * and may be NULL. */
Session *session_mount(const Options *options, const Tree *tree, DirWatch *watch,
                       GError **error);

/* Gives up everything that the session no longer needs, and enters @sandbox; with NULL,
 * keeps all privileges. Call in the process that will serve, before any thread is made.
 * *@report_out is as of sandbox_enter, and unchanged without a sandbox. */
bool session_confine(Session *session, Sandbox *sandbox, char **report_out,
                     GError **error);

/* Answers requests until the mount ends or a signal (SIGINT, SIGTERM, SIGHUP) arrives,
 * then unmounts. While files are open for writing, the first signal only detaches the
 * mount, and the end comes when they are closed, or with the second signal. False with
 * @error set if the kernel's requests cannot be received. */
bool session_run(Session *session, GError **error);

/* Unmounts, if still mounted, and frees. */
void session_free(Session *session);
