/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The loop of a serving thread. */
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <stdbool.h>

#include "threads/device.h"
#include "threads/pending-reads.h"
#include "threads/servers.h"

/* The ways in which it ends. */
typedef enum {
    SERVE_SPARE, /* the thread is surplus */
    SERVE_ENDED, /* the session has exited, or the mount has ended */
    SERVE_FAILED,
} ServeEnd;

/* Whether the mount has ended: a receive then fails with one of several errors. */
bool serve_is_connection_gone(struct fuse_session *fuse);

/* Receives requests and answers them; with @pending not NULL, one that waits for a disk
 * is answered after later ones. For SERVE_FAILED, *@error_out is the negated errno. The
 * thread may be cancelled while it waits for a request and has none to answer. */
ServeEnd serve_requests(struct fuse_session *fuse, Device *device, PendingReads *pending,
                        Server *server, int *error_out);
