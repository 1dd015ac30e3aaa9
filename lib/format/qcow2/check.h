/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What check.c, repair.c, rebuild.c, flags.c and snapshot-mend.c share. All of it works
 * on a layer that nobody else changes, under its alloc_lock. */
#pragma once

#include "format/qcow2/count.h"

/* A refcount block that is missing. */
typedef struct {
    uint64_t index; /* in the refcount table */
    uint64_t cluster;
} Qcow2NewBlock;

/* A repair under way. The counts are what the refcounts shall be. */
typedef struct {
    Qcow2 *q;
    const QimgCheckReport *report; /* is told of progress; may be NULL */
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

/* ---- repair.c ---- */

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

/* ---- rebuild.c ---- */

/* Makes the refcount table and all blocks anew behind the end of the file, and lets the
 * header refer to them; the old ones are free then. The counts are made for that, and are
 * of no use afterwards. Errors: -EFBIG where there is no room for all that. */
QimgErrno qcow2_rebuild_refcounts(Qcow2Repair *repair) QIMG_MUST_CHECK;

/* ---- flags.c ---- */

/* The entry of an active L1 table, the first word of one of an L2 table, with the COPIED
 * flag that the refcounts in @counts ask for. What refers to no cluster of the file is
 * given back as it is. */
uint64_t qcow2_right_l1_entry(const Qcow2 *q, const Qcow2Counts *counts, uint64_t entry);
uint64_t qcow2_right_l2_word(const Qcow2 *q, const Qcow2Counts *counts, uint64_t word);

/* Corrects the flags of the active tables, and the entries that the repair mends in all
 * tables. */
QimgErrno qcow2_repair_entries(Qcow2Repair *repair) QIMG_MUST_CHECK;

/* ---- snapshot-mend.c ---- */

/* How many entries of the snapshot table are not as the format wants them: without the
 * fields of version 3, or with too much behind them. Each is added to @report, unless
 * NULL. */
QimgErrno qcow2_check_snapshot_entries(Qcow2 *q, QimgCheckReport *report, uint64_t *n_out)
    QIMG_MUST_CHECK;

/* Makes the new snapshot table, in memory, where one is needed and possible, and takes
 * clusters for it instead of the old one's. */
QimgErrno qcow2_plan_snapshot_table(Qcow2Repair *repair) QIMG_MUST_CHECK;

/* Writes the new table (nothing is synced); lets the header refer to it. */
QimgErrno qcow2_write_snapshot_table(Qcow2Repair *repair) QIMG_MUST_CHECK;
QimgErrno qcow2_switch_snapshot_table(Qcow2Repair *repair) QIMG_MUST_CHECK;
