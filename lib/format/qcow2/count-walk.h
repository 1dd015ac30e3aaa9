/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files that count references share (count.c, count-extensions.c). */
#pragma once

#include "format/qcow2/count.h"

#define QCOW2_WALK_READ_BYTES (64 * QIMG_KIB)

typedef struct {
    Qcow2 *q;
    Qcow2Counts *counts;
    const Qcow2CountOptions *options;
    const QimgView *view;      /* of which tree alone; NULL: all is counted */
    uint64_t end_bytes;        /* of the file, rounded up to a sector */
    uint64_t table_bytes_left; /* of tables that may be walked: I1 of count.c */
    uint64_t first_beyond; /* the lowest cluster behind the file that is referred to */
    uint64_t *buffer;      /* QCOW2_WALK_READ_BYTES, for words of tables */
    GArray *late;          /* Reference: other things in the cluster of an L2 table */
    GArray *shared_tables; /* Reference: L2 tables in the cluster of something else */
} Qcow2Walk;

/* Notes that @rule is broken at @host_offset. */
void qcow2_walk_problem(Qcow2Walk *w, QimgRule rule, uint64_t host_offset);

/* As qcow2_walk_problem of a table that is therefore not walked. */
void qcow2_walk_unread(Qcow2Walk *w, QimgRule rule, uint64_t host_offset);

/* What to do about a table that cannot be read: a check goes on, and the answer is 0. */
QimgErrno qcow2_walk_error(Qcow2Walk *w, QimgErrno err, uint64_t host_offset)
    QIMG_MUST_CHECK;

/* Reads @n_words of a table, at most QCOW2_WALK_READ_BYTES, into the buffer. */
QimgErrno qcow2_walk_read(Qcow2Walk *w, QimgIoPurpose purpose, uint64_t host_offset,
                          uint64_t n_words) QIMG_MUST_CHECK;

/* Counts something, at a cluster's start, with which nothing else may share a cluster.
 * False where a part lies beyond the end of the file. */
bool qcow2_walk_alone(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes);

/* As qcow2_walk_alone of a table that is to be walked: false where it must not be. */
bool qcow2_walk_table(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes);

/* count-extensions.c: counts what header extensions refer to. Bitmaps that are stale
 * (their autoclear bit is clear) are nobody's: their clusters are leaks. */
QimgErrno qcow2_walk_extensions(Qcow2Walk *w) QIMG_MUST_CHECK;
