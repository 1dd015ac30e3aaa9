/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Counts what an image's tables refer to: the refcounts that it should have, and what is
 * wrong with the tables. */
#pragma once

#include "format/qcow2/qcow2.h"

/* Stands for 16 TiB of file with clusters of 64 KiB. */
#define QCOW2_MAX_COUNT_BYTES     (UINT64_C(1) << 30)
#define QCOW2_MAX_LISTED_PROBLEMS 100u
#define QCOW2_MAX_COUNT           ((UINT32_C(1) << 30) - 1)

/* What a cluster is used for. Two tables in one cluster, or data in that of a table, are
 * a problem; data are shared, and L2 tables between L1 tables. */
typedef enum {
    QCOW2_USE_NONE,
    QCOW2_USE_DATA,
    QCOW2_USE_L2,
    QCOW2_USE_ALONE, /* any other table, or the header */
} Qcow2Use;

typedef struct {
    QimgRule rule;
    uint64_t host_offset; /* that is wrong, or where the table lies in which it is */
} Qcow2Problem;

typedef struct {
    uint64_t n_clusters; /* of the file, the last of which may be cut */
    uint64_t n_words;    /* >= n_clusters: there is room for some clusters more */
    /* The use in the upper 2 bits, the references in the others. Of 32 bits, since a
     * cluster may be shared by 65536 snapshots; pages of the array that no cluster of
     * a sparse file needs are never touched. */
    uint32_t *words;
    GArray *problems; /* Qcow2Problem, the first ones */
    uint64_t n_problems;
} Qcow2Counts;

/* Counts all references of the image file. What can be told in spite of problems is
 * counted. Reads only; @out is to be cleared, also after a failure.
 * Threads: none may change the tables meanwhile; the refcount table is loaded, its lock
 * held. Errors: of the storage, -ENOMEM; -EFBIG where the counts would take more than
 * QCOW2_MAX_COUNT_BYTES. */
QimgErrno qcow2_count_references(Qcow2 *q, Qcow2Counts *out)
    QIMG_MUST_CHECK QIMG_REQUIRES(q->alloc_lock);

/* Counts the references that the tree of one L1 table makes: L2 tables and all that they
 * refer to; with @with_l1 the clusters of the table itself, too. What the tree refers to
 * must not be another table of the image. @view is that of the disk or of a snapshot in
 * the layer's list; the layer is active. Else as qcow2_count_references. */
QimgErrno qcow2_count_tree(Qcow2 *q, const QimgView *view, bool with_l1, Qcow2Counts *out)
    QIMG_MUST_CHECK QIMG_REQUIRES(q->alloc_lock);

void qcow2_counts_clear(Qcow2Counts *counts);

/* ---- copied.c ---- */

/* Makes the COPIED flags of the tables of @view what @counts says (NULL: all is shared),
 * in the file and the cached slices; not synced. Those in the L1 table of a snapshot mean
 * nothing and stay. *@n_corrected_out (may be NULL) is set also on failure.
 * Threads, errors: as qcow2_count_references. */
QimgErrno qcow2_correct_copied_flags(Qcow2 *q, const QimgView *view,
                                     const Qcow2Counts *counts, uint64_t *n_corrected_out)
    QIMG_MUST_CHECK QIMG_REQUIRES(q->alloc_lock);

/* ---- refcount-bulk.c ---- */

/* Whether each refcount can be changed by its count (@sign 1 or -1): else -ERANGE. Reads
 * only. Threads, other errors: as qcow2_count_references. */
QimgErrno qcow2_refcount_check_counts(Qcow2 *q, const Qcow2Counts *counts, int sign)
    QIMG_MUST_CHECK QIMG_REQUIRES(q->alloc_lock);

/* Changes each refcount by its count, in the file; not synced. Clusters that became 0 are
 * appended to @freed (Qcow2Clusters), if not NULL. On failure what was changed is changed
 * back as far as possible. Threads, errors: as qcow2_refcount_check_counts. */
QimgErrno qcow2_refcount_add_counts(Qcow2 *q, const Qcow2Counts *counts, int sign,
                                    GArray *freed)
    QIMG_MUST_CHECK QIMG_REQUIRES(q->alloc_lock);

/* Loads all refcounts as they are stored, those that are larger than a count can be as
 * the largest. As qcow2_count_references. */
QimgErrno qcow2_refcount_load_all(Qcow2 *q, Qcow2Counts *out)
    QIMG_MUST_CHECK QIMG_REQUIRES(q->alloc_lock);

/* How many references @cluster has; 0 beyond all that was counted. */
static inline uint64_t
qcow2_counts_get(const Qcow2Counts *counts, uint64_t cluster)
{
    return cluster < counts->n_words ? counts->words[cluster] & QCOW2_MAX_COUNT : 0;
}

static inline Qcow2Use
qcow2_counts_get_use(const Qcow2Counts *counts, uint64_t cluster)
{
    return cluster < counts->n_words ? (Qcow2Use)(counts->words[cluster] >> 30)
                                     : QCOW2_USE_NONE;
}

/* Counts a new table in @cluster, which had no reference and is below n_words. */
static inline void
qcow2_counts_take(Qcow2Counts *counts, uint64_t cluster)
{
    counts->words[cluster] = (uint32_t)QCOW2_USE_ALONE << 30 | 1;
}
