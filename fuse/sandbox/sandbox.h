/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Gives up everything that a running mount does not need: a hostile image may one day
 * compromise our code, which then must reach nothing. See docs/security.md. */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef struct Sandbox Sandbox;

typedef enum {
    SANDBOX_READ = 1,   /* open files for reading, and list directories */
    SANDBOX_WRITE = 2,  /* open files for writing, too */
    SANDBOX_REMOVE = 4, /* remove the names of files */
} SandboxAccess;

/* A sandbox in which no file can be opened by name. Free with sandbox_free. */
Sandbox *sandbox_new(void);
void sandbox_free(Sandbox *sandbox);

/* Allows the confined process to reach the directory @path and everything below it, or
 * the file @path, as found now, with @access (ORed SandboxAccess). A missing path allows
 * nothing. For SANDBOX_READ, a server run by root keeps the capabilities to open other
 * users' files. */
void sandbox_allow(Sandbox *sandbox, const char *path, unsigned access);

/* Confines the calling thread, and the threads that it makes later, for good. Call before
 * any other thread is made, with all files open that are not below an allowed path.
 * *@report_out becomes a line for diagnosis: the active limits and those missing in this
 * kernel (free with g_free). False with @error set if the process is less confined than
 * this kernel permits. */
bool sandbox_enter(Sandbox *sandbox, char **report_out, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Sandbox, sandbox_free)
