/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A repair under way, and its refcounts: which blocks are missing, raising and lowering.
 * All of it works on a layer that nobody else changes, under its alloc_lock. */
#pragma once

#include "format/qcow2/count/counts.h"

typedef enum {
    QCOW2_PASS_RAISE,
    QCOW2_PASS_LOWER, /* counts what it finds too low */
} Qcow2Pass;

/* A refcount block that is missing. */
typedef struct {
    uint64_t index; /* in the refcount table */
    uint64_t cluster;
} Qcow2NewBlock;

/* A repair under way. The counts are what the refcounts shall be. */
typedef struct {
    Qcow2 *q;
    const QimgTask *task; /* of the caller; may be NULL */
    Qcow2Counts counts;
    uint64_t per_block;
    /* There may be references that could not be counted: no refcount is lowered, and no
     * cluster of the file is taken for free. */
    bool is_partial;
    bool mends_entries;            /* zero clusters with an unaligned offset lose it */
    GArray *new_blocks;            /* Qcow2NewBlock */
    uint8_t *block;                /* a cluster */
    GArray *freed;                 /* QimgClusters of the present block, to be given back
                                      to the file system; NULL: none are */
    GByteArray *snapshot_table;    /* the new one; NULL: it stays */
    uint64_t snapshot_table_start; /* the new one's first cluster */
    uint64_t n_raised;
    uint64_t n_lowered;
    uint64_t n_too_low; /* found by a repair of leaks, which raises none */
    uint64_t n_flags;
} Qcow2Repair;

/* Takes @n clusters side by side behind the end of the file. False: there is no room. */
bool qcow2_repair_take_run(Qcow2Repair *repair, uint64_t n, uint64_t *first_out);

/* Finds which blocks are missing, by the refcount table in memory, and places for them. A
 * place behind the file may need a block that is missing, too: of a higher number, which
 * is looked at later. Rule REFTABLE_TOO_SMALL where there is no room for them. */
QimgRule qcow2_repair_plan_blocks(Qcow2Repair *repair);

/* Writes the blocks that are planned; nothing refers to them yet, nothing is synced. */
QimgErrno qcow2_repair_write_blocks(Qcow2Repair *repair) QIMG_MUST_CHECK;

/* Takes what is stored into the counts of a partial repair, where it is higher; where
 * @is_rebuilding, a cluster of the file whose refcount cannot be had counts as used. */
QimgErrno qcow2_repair_settle(Qcow2Repair *repair, bool is_rebuilding) QIMG_MUST_CHECK;

/* Whether a cluster that block @index counts has a reference. */
bool qcow2_repair_is_range_used(const Qcow2Repair *repair, uint64_t index);

/* Whether all counts fit in the image's refcounts. */
bool qcow2_repair_do_counts_fit(const Qcow2Repair *repair);

/* Makes the entries of all blocks right, as far as @pass may; can be canceled between two
 * of them. */
QimgErrno qcow2_repair_correct_blocks(Qcow2Repair *repair, Qcow2Pass pass)
    QIMG_MUST_CHECK;

/* Writes the missing blocks, then the table's entries for them (R2 of repair.c). */
QimgErrno qcow2_repair_add_blocks(Qcow2Repair *repair) QIMG_MUST_CHECK;
