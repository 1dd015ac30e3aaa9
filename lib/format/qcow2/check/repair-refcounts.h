/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A repair in progress, and its refcounts: missing blocks, raising and lowering. All of
 * it works on a layer that no other thread changes, under its alloc_lock. */
#pragma once

#include "format/qcow2/count/counts.h"

typedef enum {
    QCOW2_PASS_RAISE,
    QCOW2_PASS_LOWER, /* counts refcounts that are too low */
} Qcow2Pass;

/* A missing refcount block. */
typedef struct {
    uint64_t index; /* in the refcount table */
    uint64_t cluster;
} Qcow2NewBlock;

/* A repair in progress. The counts are the refcounts to be stored. */
typedef struct {
    Qcow2 *q;
    const QimgTask *task; /* of the caller; may be NULL */
    Qcow2Counts counts;
    uint32_t order; /* of the refcounts to be stored: 2^this bits */
    uint64_t per_block;
    /* Some references may not have been counted: no refcount is lowered, and no cluster
     * of the file is treated as free. */
    bool is_partial;
    bool mends_entries; /* removes unaligned offsets of zero clusters */
    GArray *new_blocks; /* Qcow2NewBlock */
    uint8_t *block;     /* a cluster */
    GArray *freed; /* QimgClusters of the present block whose host space is to be freed;
                      NULL: none */
    GByteArray *snapshot_table;    /* the new one; NULL: unchanged */
    uint64_t snapshot_table_start; /* the new one's first cluster */
    uint64_t n_raised;
    uint64_t n_lowered;
    uint64_t n_too_low; /* found by a repair of leaks, which raises none */
    uint64_t n_flags;
} Qcow2Repair;

/* Takes @n adjacent clusters behind the end of the file. False: there is no room. */
bool qcow2_repair_take_run(Qcow2Repair *repair, uint64_t n, uint64_t *first_out);

/* Finds the missing blocks, by the refcount table in memory, and places for them. A place
 * behind the file may need a missing block, too: it has a higher number, so the loop
 * reaches it later. Rule REFTABLE_TOO_SMALL if there is no room for them. */
QimgRule qcow2_repair_plan_blocks(Qcow2Repair *repair);

/* Writes the planned blocks; nothing refers to them yet; syncs nothing. */
QimgErrno qcow2_repair_write_blocks(Qcow2Repair *repair) QIMG_MUST_CHECK;

/* Raises the counts of a partial repair to the stored refcounts; if @is_rebuilding, a
 * cluster of the file whose refcount is unreadable counts as used. */
QimgErrno qcow2_repair_settle(Qcow2Repair *repair, bool is_rebuilding) QIMG_MUST_CHECK;

/* Whether a cluster that block @index counts has a reference. */
bool qcow2_repair_is_range_used(const Qcow2Repair *repair, uint64_t index);

/* Whether all counts fit in the image's refcounts. */
bool qcow2_repair_do_counts_fit(const Qcow2Repair *repair);

/* Corrects the entries of all blocks, as far as @pass allows; can be canceled between two
 * of them. */
QimgErrno qcow2_repair_correct_blocks(Qcow2Repair *repair, Qcow2Pass pass)
    QIMG_MUST_CHECK;

/* Writes the missing blocks, then the table's entries for them (R2 of repair.c). */
QimgErrno qcow2_repair_add_blocks(Qcow2Repair *repair) QIMG_MUST_CHECK;
