/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What counting an image's references gives: the refcounts that it should have, and what
 * is wrong with the tables. */
#pragma once

#include "base/task.h"
#include "format/qcow2/layer/qcow2.h"

/* Stands for 16 TiB of file with clusters of 64 KiB. */
#define QCOW2_MAX_COUNT_BYTES     (UINT64_C(1) << 30)
#define QCOW2_MAX_LISTED_PROBLEMS 400u
#define QCOW2_USE_SHIFT           30
#define QCOW2_MAX_COUNT           ((UINT32_C(1) << QCOW2_USE_SHIFT) - 1)

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
    uint64_t host_offset;  /* that is wrong, or where the table lies in which it is */
    uint64_t guest_offset; /* QIMG_NO_GUEST_OFFSET unless known */
} Qcow2Problem;

/* How to count. */
typedef struct {
    /* Go on whatever is found, and load the refcount table, too: entries that are no
     * places for blocks become 0. Else that is the caller's, and what cannot be read ends
     * the count. */
    bool is_for_check;
    bool leaves_out_refcounts; /* the refcount table and blocks: they are made anew */
    /* Count bitmaps, too, that a writer without knowledge of them has made invalid. */
    bool counts_stale_bitmaps;
    const QimgTask *task; /* of the caller; may be NULL */
} Qcow2CountOptions;

typedef struct {
    uint64_t n_clusters; /* of the file, the last of which may be cut */
    /* >= n_clusters: there is room for some clusters more, but for none that an entry
     * refers to: the file must not grow over them, or what is missing became zeros. */
    uint64_t n_words;
    /* The use in the upper 2 bits, the references in the others. Of 32 bits, since a
     * cluster may be shared by 65536 snapshots; pages of the array that no cluster of
     * a sparse file needs are never touched. */
    uint32_t *words;
    GArray *problems; /* Qcow2Problem, the first ones */
    uint64_t n_problems;
    uint64_t n_errors; /* of the problems: what the host's file system cannot read */
    /* Of the problems: zero clusters whose offset is no cluster's. They are not counted:
     * such an entry means the same without its offset. */
    uint64_t n_unaligned_zeros;
    /* Tables that could not be read or understood: there may be references that are not
     * counted, so that no refcount is known to be too high. */
    uint64_t n_unread;
    uint64_t
        n_table_overlaps; /* tables, other than L2 tables, in the cluster of another */
    /* The header has fields, features or extensions that are not known: they may own
     * clusters that are not counted. */
    bool has_unknown_owner;
    bool are_refcounts_ruined; /* the refcount table, or a block, is not to be trusted */
} Qcow2Counts;

void qcow2_counts_clear(Qcow2Counts *counts);

/* Whether the entry's offset has no meaning, and is none: see n_unaligned_zeros. */
bool qcow2_is_unaligned_zero(const Qcow2Geometry *g, uint64_t word, uint64_t bitmap);

/* How many references @cluster has; 0 beyond all that was counted. */
static inline uint64_t
qcow2_counts_get(const Qcow2Counts *counts, uint64_t cluster)
{
    return cluster < counts->n_words ? counts->words[cluster] & QCOW2_MAX_COUNT : 0;
}

/* Changes the number for a cluster below n_words; too much becomes QCOW2_MAX_COUNT. */
static inline void
qcow2_counts_set(Qcow2Counts *counts, uint64_t cluster, uint64_t n)
{
    if (n > QCOW2_MAX_COUNT)
        n = QCOW2_MAX_COUNT;
    counts->words[cluster] = (counts->words[cluster] & ~QCOW2_MAX_COUNT) | (uint32_t)n;
}

static inline Qcow2Use
qcow2_counts_get_use(const Qcow2Counts *counts, uint64_t cluster)
{
    return cluster < counts->n_words
               ? (Qcow2Use)(counts->words[cluster] >> QCOW2_USE_SHIFT)
               : QCOW2_USE_NONE;
}

/* Counts a new table in @cluster, which had no reference and is below n_words. */
static inline void
qcow2_counts_take(Qcow2Counts *counts, uint64_t cluster)
{
    counts->words[cluster] = (uint32_t)QCOW2_USE_ALONE << QCOW2_USE_SHIFT | 1;
}
