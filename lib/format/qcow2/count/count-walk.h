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
    const QimgView *view;      /* the only tree to count; NULL: count all */
    uint64_t end_bytes;        /* of the file, rounded up to a sector */
    uint64_t table_bytes_left; /* of tables that may still be walked: I1 of count.c */
    uint64_t first_beyond; /* the lowest cluster behind the file that is referred to */
    uint64_t *buffer;      /* QCOW2_WALK_READ_BYTES, for words of tables */
    GArray *late;          /* Qcow2Reference: other data in the cluster of an L2 table */
    GArray *shared_tables; /* Qcow2Reference: L2 tables in a cluster with another use */
} Qcow2Walk;

/* Records that @rule is broken at @host_offset. */
void qcow2_walk_problem(Qcow2Walk *w, QimgRule rule, uint64_t host_offset);

/* Like qcow2_walk_problem, for a table that is therefore not walked. */
void qcow2_walk_unread(Qcow2Walk *w, QimgRule rule, uint64_t host_offset);

/* Handles a table that cannot be read: for a check, records it and returns 0. */
QimgErrno qcow2_walk_error(Qcow2Walk *w, QimgErrno err, uint64_t host_offset)
    QIMG_MUST_CHECK;

/* Reads @n_words of a table, at most QCOW2_WALK_READ_BYTES, into the buffer. */
QimgErrno qcow2_walk_read(Qcow2Walk *w, QimgIoPurpose purpose, uint64_t host_offset,
                          uint64_t n_words) QIMG_MUST_CHECK;

/* Counts a structure, at a cluster's start, whose clusters no other may share. False if a
 * part lies beyond the end of the file. */
bool qcow2_walk_alone(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes);

/* Like qcow2_walk_alone, for a table that is to be walked: false if it must not be. */
bool qcow2_walk_table(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes);

/* Counts @weight references to each cluster that [@host_offset, + @n_bytes) touches. A
 * range beyond the end of the file breaks @beyond_rule; returns false then. */
bool qcow2_walk_range(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes, Qcow2Use use,
                      uint32_t weight, QimgRule beyond_rule);

/* Adds @weight references to @cluster, for any use. */
void qcow2_walk_add(Qcow2Walk *w, uint64_t cluster, uint32_t weight);

/* Counts @weight references to @cluster, which holds an L2 table, at the end (I2). */
void qcow2_walk_add_late(Qcow2Walk *w, uint64_t cluster, uint32_t weight);

/* Records a structure at @host_offset that reaches beyond the end of the file. */
void qcow2_walk_note_beyond(Qcow2Walk *w, uint64_t host_offset);

/* Counts @weight references to @cluster of the file, for the use @use. */
void qcow2_walk_cluster(Qcow2Walk *w, uint64_t cluster, Qcow2Use use, uint32_t weight);
