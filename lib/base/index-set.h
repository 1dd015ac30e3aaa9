/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A set of numbers that many threads look into without a lock while one changes it. */
#pragma once

#include "base/types.h"

typedef struct QimgIndexSet QimgIndexSet;

QimgIndexSet *qimg_index_set_new(void);
void qimg_index_set_free(QimgIndexSet *set);

/* Adds @index (below UINT64_MAX - 1); it may be there already. False when memory is
 * short. Threads: one changes at a time. */
bool qimg_index_set_add(QimgIndexSet *set, uint64_t index) QIMG_MUST_CHECK;

/* Takes @index out; it may be absent. Threads: one changes at a time. */
void qimg_index_set_remove(QimgIndexSet *set, uint64_t index);

/* Whether @index is in the set. Threads: any. */
bool qimg_index_set_has(const QimgIndexSet *set, uint64_t index);

/* How many there are. Threads: who may change it. */
uint64_t qimg_index_set_count(const QimgIndexSet *set);
