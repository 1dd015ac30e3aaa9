/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A walk over all tables. */
#pragma once

#include "format/check-report.h"
#include "format/qed/qed.h"

/* The result of a walk over all tables. */
typedef struct {
    uint64_t n_clusters;       /* of the file, whole ones */
    uint64_t *used;            /* one bit for each */
    uint64_t used_end_cluster; /* behind the last one in use */
    uint64_t n_invalid;        /* invalid entries */
    uint64_t n_shared;         /* clusters with two references */
    uint64_t n_errors;         /* parts of tables that cannot be read */
    uint64_t n_mended;         /* entries set to 0 */
    QimgRule first_rule;       /* of the first problem; OK: none */
    uint64_t first_host_offset;
} QedWalk;

/* Options of a walk. */
typedef struct {
    QimgCheckReport *report; /* gets findings and statistics; may be NULL */
    const QimgTask *task;    /* of the caller; may be NULL */
    bool mends;              /* sets invalid entries to 0, in the file */
    bool collects;           /* adds all tables to the layer's metadata */
} QedWalkOptions;

/* Walks over all tables. Clear @out after use, also after a failure. Threads: none may
 * change the tables meanwhile. Errors: -ENOMEM; -EFBIG for files with more clusters than
 * can be counted; -ECANCELED; of writing, with @options->mends. */
QimgErrno qed_walk(Qed *qed, const QedWalkOptions *options, QedWalk *out) QIMG_MUST_CHECK;
void qed_walk_clear(QedWalk *walk);

/* The next contiguous clusters behind *@run, and before the last one in use, without
 * references; false: there are none. */
bool qed_walk_find_unused(const QedWalk *walk, QimgClusters *run);
