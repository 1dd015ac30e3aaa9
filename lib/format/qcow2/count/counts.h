/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The result of counting an image's references: the correct refcounts, and the problems
 * of the tables. */
#pragma once

#include "base/task.h"
#include "format/qcow2/layer/qcow2.h"

/* Enough for 16 TiB of file with clusters of 64 KiB. */
#define QCOW2_MAX_COUNT_BYTES     (UINT64_C(1) << 30)
#define QCOW2_MAX_LISTED_PROBLEMS 400u
#define QCOW2_USE_SHIFT           30
#define QCOW2_MAX_COUNT           ((UINT32_C(1) << QCOW2_USE_SHIFT) - 1)

/* The use of a cluster. Two tables in one cluster, or data in that of a table, are a
 * problem; data are shared, and L2 tables between L1 tables. */
typedef enum {
    QCOW2_USE_NONE,
    QCOW2_USE_DATA,
    QCOW2_USE_L2,
    QCOW2_USE_ALONE, /* any other table, or the header */
} Qcow2Use;

typedef struct {
    QimgRule rule;
    uint64_t host_offset;  /* of the problem, or of the table with it */
    uint64_t guest_offset; /* QIMG_NO_GUEST_OFFSET unless known */
} Qcow2Problem;

/* Options of a count. */
typedef struct {
    /* Continue despite problems, and load the refcount table, too: invalid entries become
     * 0. Otherwise the caller has loaded it, and a read error ends the count. */
    bool is_for_check;
    bool leaves_out_refcounts; /* the refcount table and blocks: they are rebuilt */
    uint32_t refcount_order;   /* leave room for refcounts of that width, too */
    /* Count bitmaps, too, that a writer without support for them has made invalid. */
    bool counts_stale_bitmaps;
    const QimgTask *task; /* of the caller; may be NULL */
} Qcow2CountOptions;

typedef struct {
    uint64_t n_clusters; /* of the file; the last may be truncated */
    /* >= n_clusters: there is room for some more clusters, which no entry refers to: if
     * the file grew over clusters that one does, missing data would become zeros. */
    uint64_t n_words;
    /* The use in the upper 2 bits, the references in the others. 32 bits, since a cluster
     * may be shared by 65536 snapshots; pages of the array for holes of a sparse file are
     * never touched. */
    uint32_t *words;
    GArray *problems; /* Qcow2Problem, the first ones */
    uint64_t n_problems;
    uint64_t n_errors; /* of the problems: read errors of the host's file system */
    /* Of the problems: zero clusters with an unaligned offset. They are not counted: such
     * an entry means the same without its offset. */
    uint64_t n_unaligned_zeros;
    /* Tables that could not be read or understood: some references may not be counted, so
     * that no refcount is known to be too high. */
    uint64_t n_unread;
    uint64_t
        n_table_overlaps; /* tables, other than L2 tables, in the cluster of another */
    /* The header has unknown fields, features or extensions: they may own clusters that
     * are not counted. */
    bool has_unknown_owner;
    bool has_damaged_bitmaps;  /* of n_unread */
    bool are_refcounts_ruined; /* the refcount table, or a block, is not reliable */
} Qcow2Counts;

void qcow2_counts_clear(Qcow2Counts *counts);

/* Whether the entry's offset is meaningless and unaligned: see n_unaligned_zeros. */
bool qcow2_is_unaligned_zero(const Qcow2Geometry *g, uint64_t word, uint64_t bitmap);

/* The references of @cluster; 0 outside the counted range. */
static inline uint64_t
qcow2_counts_get(const Qcow2Counts *counts, uint64_t cluster)
{
    return cluster < counts->n_words ? counts->words[cluster] & QCOW2_MAX_COUNT : 0;
}

/* Sets the count of a cluster below n_words; limited to QCOW2_MAX_COUNT. */
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
