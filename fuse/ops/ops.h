/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The request handlers: look up, call libqimg, reply. */
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "base/lock.h"
#include "tree/tree.h"

typedef struct Coherence Coherence;

/* What all handlers share; const while the session runs, but for the files. */
typedef struct {
    const Tree *tree;
    struct fuse_session *session;
    Coherence *coherence; /* see coherence.h; NULL: no two files show the same bytes, or
                             nothing changes */
    unsigned max_read_bytes; /* 0: no limit of our own */
    QimgMutex files_lock;    /* held for open and release alone */
    GHashTable *files;       /* guarded by files_lock: the open files */
    unsigned n_released;     /* guarded by files_lock: files that were closed */
    QimgCond released;       /* signalled when n_released changes */
} Mount;

/* Fills in the handlers of ops-meta.c, ops-data.c and ops-snapshot.c. @names_change:
 * images come and go. */
void ops_meta_fill(struct fuse_lowlevel_ops *ops, bool names_change);
void ops_data_fill(struct fuse_lowlevel_ops *ops);
void ops_snapshot_fill(struct fuse_lowlevel_ops *ops);

/* ops-meta.c: replies with a node that was looked up or made. */
void reply_entry(fuse_req_t req, const Tree *tree, Node node);

/* Closes the files that were open when the mount ended: no release comes for them. When
 * no handler runs any more. */
void ops_data_close_files(Mount *mount);

/* How many files are open, and in *@n_writers_out, how many of them for writing. */
unsigned ops_data_count_files(Mount *mount, unsigned *n_writers_out);

/* The size of the largest request that the kernel sends us. */
#define MAX_REQUEST_BYTES ((size_t)1 << 20)

/* How long the kernel may keep what it knows of names and attributes: nothing changes but
 * what tree_is_live says, and of that nothing is kept. */
#define CACHE_TIMEOUT_S 86400.0

/* The same for what belongs to images of directories: others may change these, and we see
 * it when we are asked. */
#define NAMES_TIMEOUT_S 1.0
