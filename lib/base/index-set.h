/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A set of numbers that many threads read without a lock while one changes it. */
#pragma once

#include "base/types.h"

typedef struct QimgIndexSet QimgIndexSet;

QimgIndexSet *qimg_index_set_new(void);
void qimg_index_set_free(QimgIndexSet *set);

/* Adds @index (below UINT64_MAX - 1), which may be present already. False if memory is
 * short. Threads: one writer at a time. */
bool qimg_index_set_add(QimgIndexSet *set, uint64_t index) QIMG_MUST_CHECK;

/* Removes @index, which may be absent. Threads: one writer at a time. */
void qimg_index_set_remove(QimgIndexSet *set, uint64_t index);

/* Whether @index is in the set. Threads: any. */
bool qimg_index_set_has(const QimgIndexSet *set, uint64_t index);

/* The number of indices. Threads: the writer. */
uint64_t qimg_index_set_count(const QimgIndexSet *set);
