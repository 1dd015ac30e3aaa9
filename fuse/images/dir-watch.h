/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A thread that follows images coming and going in mounted directories, and closes idle
 * ones. */
#pragma once

#include "images/images.h"

typedef struct DirWatch DirWatch;

/* Begins to watch the directories of @images, and finds their images. NULL with @error
 * set, which names the directory. Call before any other thread uses @images. */
DirWatch *dir_watch_new(Images *images, GError **error);

/* Called in the thread, with the name (without ".raw") of an image that has gone. It may
 * wait for requests of the mount. */
typedef void (*DirWatchGone)(const char *name, void *user);

/* Starts the thread. False with errno. Call after going to the background. */
bool dir_watch_start(DirWatch *watch, DirWatchGone on_gone, void *user);

/* Ends the thread, if it runs. Until it returns, requests must be answered. */
void dir_watch_stop(DirWatch *watch);

/* Frees @watch, whose thread must not run; accepts NULL. */
void dir_watch_free(DirWatch *watch);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(DirWatch, dir_watch_free)
