/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The request handlers: look up, call libqimg, reply. */
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "base/lock.h"
#include "tree/tree.h"

typedef struct Coherence Coherence;

/* Shared by all handlers; const while the session runs, except the files. */
typedef struct {
    const Tree *tree;
    struct fuse_session *session;
    Coherence *coherence; /* see coherence.h; NULL: no two files show the same bytes, or
                             nothing changes */
    unsigned max_read_bytes; /* 0: no limit of our own */
    QimgMutex files_lock;    /* held only for open and release */
    GHashTable *files;       /* guarded by files_lock: the open files */
    unsigned n_released;     /* guarded by files_lock: number of closed files */
    QimgCond released;       /* signalled when n_released changes */
} Mount;

/* Fills in the handlers of ops-meta.c, ops-data.c and ops-snapshot.c. @names_change:
 * images come and go. */
void ops_meta_fill(struct fuse_lowlevel_ops *ops, bool names_change);
void ops_data_fill(struct fuse_lowlevel_ops *ops);
void ops_snapshot_fill(struct fuse_lowlevel_ops *ops);

/* ops-meta.c: replies with a node that was looked up or made. */
void reply_entry(fuse_req_t req, const Tree *tree, Node node);

/* Closes the files still open at the end of the mount: no release comes for them. Call
 * when no handler runs any more. */
void ops_data_close_files(Mount *mount);

/* The number of open files; stores the number of those open for writing in
 * *@n_writers_out. */
unsigned ops_data_count_files(Mount *mount, unsigned *n_writers_out);

/* The size of the largest request from the kernel. */
#define MAX_REQUEST_BYTES ((size_t)1 << 20)

/* How long the kernel may cache names and attributes: only nodes with tree_is_live
 * change, and those are never cached. */
#define CACHE_TIMEOUT_S 86400.0

/* The same for images of directories: other programs may change these, and only a request
 * makes us notice. */
#define NAMES_TIMEOUT_S 1.0
