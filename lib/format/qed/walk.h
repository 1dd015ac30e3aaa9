/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A look at all tables. */
#pragma once

#include "format/check-report.h"
#include "format/qed/qed.h"

/* What a look at all tables finds. */
typedef struct {
    uint64_t n_clusters;       /* of the file, whole ones */
    uint64_t *used;            /* a bit for each */
    uint64_t used_end_cluster; /* behind the last one in use */
    uint64_t n_invalid;        /* entries that are no places */
    uint64_t n_shared;         /* clusters that are referred to twice */
    uint64_t n_errors;         /* parts of tables that cannot be read */
    uint64_t n_mended;         /* entries that have become 0 */
    QimgRule first_rule;       /* of what was found first; OK: nothing was */
    uint64_t first_host_offset;
} QedWalk;

/* What to do beside looking. */
typedef struct {
    QimgCheckReport *report; /* gets findings and statistics; NULL: nobody does */
    const QimgTask *task;    /* of the caller; may be NULL */
    bool mends;              /* entries that are no places become 0, in the file */
    bool collects;           /* all tables become the layer's metadata */
} QedWalkOptions;

/* Looks at all tables. @out is to be cleared, also after a failure.
 * Threads: nobody changes the tables meanwhile. Errors: -ENOMEM; -EFBIG for files with
 * more clusters than can be counted; -ECANCELED; of writing, where @options->mends. */
QimgErrno qed_walk(Qed *qed, const QedWalkOptions *options, QedWalk *out) QIMG_MUST_CHECK;
void qed_walk_clear(QedWalk *walk);

/* The next clusters side by side behind *@run, and before the last one in use, to which
 * nothing refers; false: there are none. */
bool qed_walk_find_unused(const QedWalk *walk, QimgClusters *run);
