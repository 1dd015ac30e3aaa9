/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images that come and go in directories while they are mounted, and the closing of those
 * that are not used: a thread of its own. */
#pragma once

#include "images/images.h"

typedef struct DirWatch DirWatch;

/* Begins to watch the directories of @images, and finds what is in them. NULL with @error
 * set, which names the directory. Before any other thread uses @images. */
DirWatch *dir_watch_new(Images *images, GError **error);

/* Called in the thread, with the name (without ".raw") of an image that has gone. It may
 * wait for requests of the mount to be answered. */
typedef void (*DirWatchGone)(const char *name, void *user);

/* Starts the thread. False with errno. After going to the background. */
bool dir_watch_start(DirWatch *watch, DirWatchGone on_gone, void *user);

/* Ends the thread, if it runs. Requests must be answered until it returns. */
void dir_watch_stop(DirWatch *watch);

/* Of one whose thread does not run; accepts NULL. */
void dir_watch_free(DirWatch *watch);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(DirWatch, dir_watch_free)
