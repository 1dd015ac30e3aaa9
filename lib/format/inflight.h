/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest ranges of one layer whose mapping is being changed. A writer announces a
 * range here before it changes it, and is then its only writer; writers of any part of it
 * wait, other requests do not. A request that only needs a mapping to stay unchanged
 * shares its range with others of that kind. */
#pragma once

#include "base/types.h"

typedef struct InflightSet InflightSet;

/* An announced range; in its owner's memory. */
typedef struct QimgInflight {
    uint64_t start;            /* guest bytes; const while announced */
    uint64_t end;              /* its owner may lower it: inflight_shorten */
    bool is_shared;            /* const while announced */
    struct QimgInflight *next; /* guarded by the set's lock */
} QimgInflight;

InflightSet *inflight_set_new(void);
void inflight_set_free(InflightSet *set);

/* Announces [@start, *@end); waits while its first byte is in another owner's range;
 * lowers *@end to the start of the next such range. */
void inflight_begin(InflightSet *set, QimgInflight *mine, uint64_t start, uint64_t *end);

/* The same for a request that changes nothing: shared ranges do not wait for each
 * other. */
void inflight_begin_shared(InflightSet *set, QimgInflight *mine, uint64_t start,
                           uint64_t *end);

/* Releases [@end, the range's end); @end lies inside. */
void inflight_shorten(InflightSet *set, QimgInflight *mine, uint64_t end);

/* Ends the range; waiting threads check again. */
void inflight_end(InflightSet *set, QimgInflight *mine);
