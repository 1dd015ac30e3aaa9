/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counting single references, for count.c and count-extensions.c. */
#pragma once

#include "format/qcow2/count/counts.h"

#define QCOW2_WALK_READ_BYTES (64 * QIMG_KIB)

/* References that are counted apart. */
typedef struct {
    uint64_t cluster;
    uint32_t weight;
} Qcow2Reference;

typedef struct {
    Qcow2 *q;
    Qcow2Counts *counts;
    const Qcow2CountOptions *options;
    const QimgView *view;      /* of which tree alone; NULL: all is counted */
    uint64_t end_bytes;        /* of the file, rounded up to a sector */
    uint64_t table_bytes_left; /* of tables that may be walked: I1 of count.c */
    uint64_t first_beyond; /* the lowest cluster behind the file that is referred to */
    uint64_t *buffer;      /* QCOW2_WALK_READ_BYTES, for words of tables */
    GArray *late; /* Qcow2Reference: other things in the cluster of an L2 table */
    GArray
        *shared_tables; /* Qcow2Reference: L2 tables in the cluster of something else */
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

/* Counts @weight references to each cluster that [@host_offset, + @n_bytes) touches. What
 * lies beyond the end of the file breaks @beyond_rule, and the answer is false then. */
bool qcow2_walk_range(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes, Qcow2Use use,
                      uint32_t weight, QimgRule beyond_rule);

/* Adds @weight references to @cluster, whatever it is used for. */
void qcow2_walk_add(Qcow2Walk *w, uint64_t cluster, uint32_t weight);

/* Counts @weight references to @cluster, which holds an L2 table, at the end (I2). */
void qcow2_walk_add_late(Qcow2Walk *w, uint64_t cluster, uint32_t weight);

/* Something at @host_offset reaches beyond the end of the file. */
void qcow2_walk_note_beyond(Qcow2Walk *w, uint64_t host_offset);

/* Counts @weight references to @cluster of the file, which is used as @use says. */
void qcow2_walk_cluster(Qcow2Walk *w, uint64_t cluster, Qcow2Use use, uint32_t weight);
