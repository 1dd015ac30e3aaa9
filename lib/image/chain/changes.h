/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Detection of changes by another program to a file of an open chain: reads may then mix
 * two versions. */
#pragma once

#include <time.h>

#include "image/chain/chain.h"

/* Interval of checks while an image is read. */
#define CHANGES_LOOK_MS 1000

/* Checks now whether another program has changed a file of the chain, except the files
 * that this chain writes. Returns the first such file, or NULL. Any thread; no lock. */
const QimgStorage *chain_find_changed(const QimgChain *chain);

/* For chain_is_stale, when the next check is due. */
bool chain_look_for_changes(QimgChain *chain);

/* Whether another program has changed a file of the chain since it was opened: reads then
 * fail. Checks the files at most once per CHANGES_LOOK_MS. Any thread; no lock. */
static inline bool
chain_is_stale(QimgChain *chain)
{
    struct timespec now;
    int64_t now_ms;

    if (!chain->is_watched)
        return false;
    if (atomic_load_explicit(&chain->changed, memory_order_relaxed))
        return true;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    now_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    return now_ms >= atomic_load_explicit(&chain->next_look_ms, memory_order_relaxed) &&
           chain_look_for_changes(chain);
}
