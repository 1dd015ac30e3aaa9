/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest ranges of one layer whose mapping is being changed. Who changes a range
 * announces it here first, and is then the only one who does; others who want to change
 * any part of it wait, nobody else does. Who only needs a mapping to stay as it is
 * shares its range with others who do. */
#pragma once

#include "base/types.h"

typedef struct InflightSet InflightSet;

/* An announced range; lives with its owner. */
typedef struct QimgInflight {
    uint64_t start;            /* guest bytes; const while announced */
    uint64_t end;              /* may be lowered by the owner: inflight_shorten */
    bool is_shared;            /* const while announced */
    struct QimgInflight *next; /* guarded by the set's lock */
} QimgInflight;

InflightSet *inflight_set_new(void);
void inflight_set_free(InflightSet *set);

/* Announces [@start, *@end), waiting while its first byte is in somebody else's range;
 * *@end is lowered to where the next such range begins. */
void inflight_begin(InflightSet *set, QimgInflight *mine, uint64_t start, uint64_t *end);

/* The same for who changes nothing there: shared ranges do not wait for each other. */
void inflight_begin_shared(InflightSet *set, QimgInflight *mine, uint64_t start,
                           uint64_t *end);

/* Gives [@end, the range's end) free again; @end lies inside. */
void inflight_shorten(InflightSet *set, QimgInflight *mine, uint64_t end);

/* Ends the range; who waited looks again. */
void inflight_end(InflightSet *set, QimgInflight *mine);
