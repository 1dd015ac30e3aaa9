/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A cache of equal slots in a fixed number of bytes, looked up by a 64-bit key, pinned by
 * a count. A hit takes no lock and never waits. A miss loads outside all locks, once per
 * key for all threads that want it. */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

typedef struct SlotCache SlotCache;
typedef struct Slot Slot;

/* Fills @bytes (a whole slot) for @key. Runs without any lock. */
typedef QimgErrno (*SlotLoad)(void *user, uint64_t key, void *bytes);

/* Makes a cache of slots of @slot_bytes (a multiple of 8) that occupies at most
 * @max_bytes; reserves address space now and uses memory as slots are filled. With a
 * budget below one slot the cache keeps nothing, and every pin loads. NULL if the address
 * space cannot be reserved. */
SlotCache *slot_cache_new(size_t slot_bytes, uint64_t max_bytes);

/* Frees the cache; nothing may be pinned or loading. Accepts NULL. */
void slot_cache_free(SlotCache *cache);

/* Pins the slot of @key (not 0), calling @load on a miss. If all slots available to the
 * key are pinned, the caller gets a private slot that lives until it is unpinned. Unpin
 * soon with slot_cache_unpin. Threads: any; no lock may be held; waits for I/O on a miss.
 * Errors: those of @load, and -ENOMEM. */
QimgErrno slot_cache_pin(SlotCache *cache, uint64_t key, SlotLoad load, void *user,
                         Slot **slot_out) QIMG_MUST_CHECK;

/* As slot_cache_pin, but NULL if the key is not cached (or is being loaded). */
Slot *slot_cache_pin_present(SlotCache *cache, uint64_t key) QIMG_MUST_CHECK;

/* Whether the key is cached (and not being loaded), at this moment. Counts no hit.
 * Threads: any. */
bool slot_cache_has(SlotCache *cache, uint64_t key);

/* Unpins a slot. */
void slot_cache_unpin(SlotCache *cache, Slot *slot);

/* As slot_cache_unpin, for content that is unlikely to be needed again: it is replaced
 * before other content that was loaded or pinned. */
void slot_cache_unpin_spent(SlotCache *cache, Slot *slot);

/* Whether a pinned slot is private to the caller: other threads do not see it. */
bool slot_is_own(const Slot *slot);

/* Drops the content of @key; waits while it is pinned or being loaded. Concurrent callers
 * may still get it. Only a lock of rank ALLOC may be held. */
void slot_cache_forget(SlotCache *cache, uint64_t key);

/* The content of a pinned slot. */
void *slot_bytes(const Slot *slot);

/* The number of steps in which users changed the content of a pinned slot. */
_Atomic uint64_t *slot_steps(Slot *slot);

typedef struct {
    uint64_t n_hits;
    uint64_t n_misses;
    uint64_t used_bytes; /* memory held by slots */
    uint64_t max_bytes;
} SlotCacheStats;

/* Counters: exact while no request is in flight. */
SlotCacheStats slot_cache_get_stats(const SlotCache *cache);
