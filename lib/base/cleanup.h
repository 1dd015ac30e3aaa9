/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cleanup helpers that GLib lacks. */
#pragma once

#include <glib.h>
#include <unistd.h>

static inline void
qimg_close_fd(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* A file descriptor closed at the end of its block unless it was stolen. */
#define qimg_autofd __attribute__((cleanup(qimg_close_fd))) int

/* Returns *@fd, now owned by the caller, and leaves -1. */
static inline int
qimg_steal_fd(int *fd)
{
    int stolen = *fd;

    *fd = -1;
    return stolen;
}
