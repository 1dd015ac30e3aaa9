/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shifts, masks and limits derived from a qcow2 header. Spec: qcow2 sections 3 and 11.
 * Pure functions; any thread. */
#pragma once

#include "codec/rules.h"

#define QCOW2_MAX_L1_BYTES             (UINT64_C(32) << 20)
#define QCOW2_MAX_REFCOUNT_TABLE_BYTES (UINT64_C(8) << 20)
#define QCOW2_MAX_SNAPSHOTS            65536u
#define QCOW2_MAX_SNAPSHOT_TABLE_BYTES (UINT64_C(64) << 20)
#define QCOW2_MAX_SNAPSHOT_EXTRA       1024u
#define QCOW2_N_SUBCLUSTERS            32u

typedef struct {
    uint32_t version;
    uint32_t cluster_bits;
    uint64_t cluster_bytes;
    uint32_t l2_entry_words; /* 64-bit words: 1, or 2 with extended L2 entries */
    uint32_t l2_bits;        /* log2 of the entries of an L2 table */
    uint32_t l1_shift;       /* guest_offset >> l1_shift is the L1 index */
    bool extended_l2;
    bool has_data_file;
    uint32_t subcluster_bits; /* log2 of bytes; equals cluster_bits without extended L2 */
    uint32_t compressed_shift; /* where the sector count begins in a compressed entry */
} Qcow2Geometry;

/* Derives the rest from the fields of a valid header (qcow2_header_geometry). */
Qcow2Geometry qcow2_geometry_new(uint32_t version, uint32_t cluster_bits,
                                 bool extended_l2, bool has_data_file);

/* Checks a table's place: QIMG_RULE_OK, @too_large if @n_entries of @entry_bytes exceed
 * @max_bytes, or @bad_offset if @host_offset is not cluster aligned or the table's end
 * passes 2^63. */
QimgRule qcow2_check_table(uint64_t host_offset, uint64_t n_entries, uint64_t entry_bytes,
                           uint64_t cluster_bytes, uint64_t max_bytes, QimgRule too_large,
                           QimgRule bad_offset);

/* The number of L1 entries for a disk of @size_bytes. */
uint64_t qcow2_geometry_l1_entries_for(const Qcow2Geometry *geometry,
                                       uint64_t size_bytes);
