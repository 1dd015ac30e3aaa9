/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether another program has changed a file of an open chain: what is read may be of two
 * moments then. */
#pragma once

#include <time.h>

#include "image/chain/chain.h"

/* How often files are looked at while an image is read. */
#define CHANGES_LOOK_MS 1000

/* Looks now whether another program has changed a file of the chain, those that we write
 * to aside. The first such file, or NULL. Any thread; no lock. */
const QimgStorage *chain_find_changed(const QimgChain *chain);

/* Of chain_is_stale, where it is time to look again. */
bool chain_look_for_changes(QimgChain *chain);

/* Whether another program has changed a file of the chain while it was open: then nothing
 * is read any more. Files are looked at once in CHANGES_LOOK_MS at most. Any thread; no
 * lock. */
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
