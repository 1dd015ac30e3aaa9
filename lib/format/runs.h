/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Joining what single table slices tell into the longest run, for all formats with
 * tables.
 */
#pragma once

#include "codec/l2-entry.h"
#include "format/driver.h"

/* One step of a walk: the run that begins at @guest_offset, as far as one slice tells.
 * *@at_end_out: the run reaches the slice's end, so that the next one may go on with it.
 */
typedef QimgErrno (*QimgMapStep)(QimgFormat *format, const QimgView *view,
                                 uint64_t guest_offset, uint64_t length_bytes,
                                 QimgRun *run_out, bool *at_end_out);

/* How many bytes from @guest_offset on are surely unallocated, 0 where that is not known:
 * a look at many entries that costs less than steps do. */
typedef uint64_t (*QimgMapPeek)(QimgFormat *format, const QimgView *view,
                                uint64_t guest_offset, uint64_t length_bytes);

/* QimgDriver.map by steps; @slice_guest_bytes is how much of the disk a slice maps;
 * @peek may be NULL. */
QimgErrno qimg_map_by_steps(QimgFormat *format, const QimgView *view,
                            uint64_t guest_offset, uint64_t length_bytes,
                            uint64_t slice_guest_bytes, QimgMapStep step,
                            QimgMapPeek peek, QimgRun *run_out);

/* A QimgMapPeek for a caller that knows where the entries lie: how many of the
 * @n_entries entries of @entry_words words at @host_offset, at most as many as are worth
 * reading at once, are zeros from the first one on; 0 where they cannot be read. */
uint64_t qimg_count_zero_entries(QimgFormat *format, uint64_t host_offset,
                                 uint64_t n_entries, uint64_t entry_words);

/* The L1 entry @l1_index of @view (below n_l1_entries_in_file), and how many entries from
 * it on, within one slice and at most @n_wanted, refer to no table: none of the bits of
 * @offset_mask is set in them. Errors: of the storage. */
QimgErrno qimg_count_empty_l1(QimgFormat *format, const QimgView *view, uint64_t l1_index,
                              uint64_t n_wanted, uint64_t offset_mask,
                              uint64_t *entry_out, uint64_t *n_empty_out);

/* Turns a decoded entry, [@in_cluster_bytes, + @length_bytes) of it and of those that
 * give the same answer, into a run. What lies beyond the end of the file is cut off, or
 * damage; a data file that is short reads as zeros. */
QimgRun qimg_run_of_entry(QimgFormat *format, const QimgL2Entry *e,
                          uint64_t in_cluster_bytes, uint64_t length_bytes);

static inline QimgRun
qimg_run_damaged(QimgRule rule, uint64_t length_bytes)
{
    return (QimgRun){
        .kind = QIMG_RUN_DAMAGED, .rule = rule, .length_bytes = length_bytes};
}
