/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of the snapshot table. All with the gate closed, under alloc_lock; see
 * snapshot-table.c. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Reads the present table; unref the array. */
QimgErrno qcow2_snapshot_table_load(Qcow2 *q, GByteArray **table_out) QIMG_MUST_CHECK;

/* Changes of a table in memory. -EIO if it differs from the one read at open; -EFBIG if a
 * limit of the format would be exceeded. */
QimgErrno qcow2_snapshot_table_remove(GByteArray *table, unsigned place) QIMG_MUST_CHECK;
QimgErrno qcow2_snapshot_table_rename(GByteArray *table, unsigned place, const char *name)
    QIMG_MUST_CHECK;
QimgErrno qcow2_snapshot_table_append(const Qcow2 *q, GByteArray *table,
                                      const QimgNewSnapshot *snapshot, guint *start_out)
    QIMG_MUST_CHECK;

/* Sets the L1 table's offset of the entry at @start, which is known only when all lengths
 * are. */
void qcow2_snapshot_table_set_l1(GByteArray *table, guint start,
                                 uint64_t l1_table_offset);

/* The number of clusters that the table needs; 0: it is empty. */
uint64_t qcow2_snapshot_table_clusters(const Qcow2 *q, const GByteArray *table);

/* Writes the table to new clusters; the caller syncs. */
QimgErrno qcow2_snapshot_table_write(Qcow2 *q, const GByteArray *table,
                                     uint64_t host_offset) QIMG_MUST_CHECK;

/* Stores the table's place in the header, durably, in one write; the list of snapshots
 * stays. As qcow2_write_header_field. */
QimgErrno qcow2_snapshot_table_store_place(Qcow2 *q, uint64_t host_offset,
                                           uint32_t n_snapshots) QIMG_MUST_CHECK;

/* Makes the header refer to the table at @host_offset (0: there is none any more),
 * durably, and takes over its list; the old table's clusters are freed with the next
 * flush. @removed_place: the missing snapshot (UINT_MAX: none). On failure the layer is
 * broken, or the header is unchanged. */
QimgErrno qcow2_snapshot_table_switch(Qcow2 *q, uint64_t host_offset,
                                      unsigned n_snapshots, unsigned removed_place)
    QIMG_MUST_CHECK;
