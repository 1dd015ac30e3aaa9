/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Joining the runs of single table slices into the longest run, for all formats with
 * tables. */
#pragma once

#include "codec/l2-entry.h"
#include "format/format.h"
#include "format/run.h"

/* One step of a walk: the run that begins at @guest_offset, as far as one slice tells.
 * *@at_end_out: the run reaches the slice's end, so that the next one may continue it.
 * @user is that of qimg_map_by_steps. */
typedef QimgErrno (*QimgMapStep)(QimgFormat *format, const QimgView *view,
                                 const void *user, uint64_t guest_offset,
                                 uint64_t length_bytes, QimgRun *run_out,
                                 bool *at_end_out);

/* The number of bytes from @guest_offset on that are surely unallocated, 0 if unknown:
 * examines many entries at a lower cost than steps. */
typedef uint64_t (*QimgMapPeek)(QimgFormat *format, const QimgView *view,
                                const void *user, uint64_t guest_offset,
                                uint64_t length_bytes);

/* QimgDriver.map by steps; @slice_guest_bytes is the part of the disk that a slice maps;
 * @peek may be NULL. */
QimgErrno qimg_map_by_steps(QimgFormat *format, const QimgView *view, const void *user,
                            uint64_t guest_offset, uint64_t length_bytes,
                            uint64_t slice_guest_bytes, QimgMapStep step,
                            QimgMapPeek peek, QimgRun *run_out);

/* A QimgMapPeek for a caller that knows the place of the entries: the number of zero
 * entries at the start of the @n_entries entries of @entry_words words at @host_offset,
 * limited to the length of one read; 0 if they cannot be read. */
uint64_t qimg_count_zero_entries(QimgFormat *format, uint64_t host_offset,
                                 uint64_t n_entries, uint64_t entry_words);

/* The L1 entry @l1_index of @view (below n_l1_entries_in_file), and the number of entries
 * from it on, within one slice and at most @n_wanted, without a table: no bit of
 * @offset_mask is set in them. Errors: of the storage. */
QimgErrno qimg_count_empty_l1(QimgFormat *format, const QimgView *view, uint64_t l1_index,
                              uint64_t n_wanted, uint64_t offset_mask,
                              uint64_t *entry_out, uint64_t *n_empty_out);

/* For QimgDriver.will_map with TABLE_L1: announces the slice with the entry @l1_index,
 * unless it is cached. */
void qimg_will_read_l1(QimgFormat *format, const QimgView *view, uint64_t l1_index);

/* Turns a decoded entry, [@in_cluster_bytes, + @length_bytes) of it and of those with the
 * same answer, into a run. The part beyond the end of the file is cut off, or damage; a
 * short data file reads as zeros. */
QimgRun qimg_run_of_entry(QimgFormat *format, const QimgL2Entry *e,
                          uint64_t in_cluster_bytes, uint64_t length_bytes);
