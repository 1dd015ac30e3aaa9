/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Giving up what a running mount does not need: what is found in an image could one day
 * lead our code astray, and must then lead nowhere. See docs/security.md. */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef struct Sandbox Sandbox;

typedef enum {
    SANDBOX_READ = 1,   /* open files for reading, and list directories */
    SANDBOX_WRITE = 2,  /* open files for writing, too */
    SANDBOX_REMOVE = 4, /* take the names of files away */
} SandboxAccess;

/* A sandbox in which no file can be opened by name. Free with sandbox_free. */
Sandbox *sandbox_new(void);
void sandbox_free(Sandbox *sandbox);

/* Lets the confined process reach the directory @path and all below it, or the file
 * @path, as it is found now, as @access says (SandboxAccess, or-ed). A path that is not
 * there allows nothing.
 * For SANDBOX_READ a server of root keeps the capabilities to open the files of others.
 */
void sandbox_allow(Sandbox *sandbox, const char *path, unsigned access);

/* Confines the calling thread, and the threads that it makes later, for good: before any
 * other thread is made, with all files open that are not below an allowed path.
 * *@report_out is a line that says what holds and what this kernel lacks, for whoever
 * wants to know (free with g_free). False with @error set where the process is not as
 * confined as this kernel could do it. */
bool sandbox_enter(Sandbox *sandbox, char **report_out, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Sandbox, sandbox_free)
