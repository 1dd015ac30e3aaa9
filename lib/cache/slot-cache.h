/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A cache of equal slots in a fixed number of bytes, found by a 64-bit key, pinned by a
 * count. A hit takes no lock and never waits; a miss loads outside all locks, once for
 * each key however many threads want it. */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

typedef struct SlotCache SlotCache;
typedef struct Slot Slot;

/* Fills @bytes (a whole slot) for @key. Runs without any lock. */
typedef QimgErrno (*SlotLoad)(void *user, uint64_t key, void *bytes);

/* Makes a cache of slots of @slot_bytes (a multiple of 8) that occupies at most
 * @max_bytes; address space is reserved now, memory used as slots are filled. With a
 * budget below one slot nothing is kept, and every pin loads. NULL when the address space
 * cannot be had. */
SlotCache *slot_cache_new(size_t slot_bytes, uint64_t max_bytes);

/* Frees the cache; nothing may be pinned or loading. Accepts NULL. */
void slot_cache_free(SlotCache *cache);

/* Pins the slot of @key (not 0), calling @load where it is not there. When all the slots
 * that the key may use are pinned, the caller gets one of its own that lives until it is
 * unpinned. Unpin with slot_cache_unpin, soon.
 * Threads: any; no lock may be held; waits for I/O on a miss. Errors: those of @load, and
 * -ENOMEM. */
QimgErrno slot_cache_pin(SlotCache *cache, uint64_t key, SlotLoad load, void *user,
                         Slot **slot_out) QIMG_MUST_CHECK;

/* As slot_cache_pin, but NULL where the slot is not there (or is being loaded). */
Slot *slot_cache_pin_present(SlotCache *cache, uint64_t key) QIMG_MUST_CHECK;

/* Gives a pinned slot back. */
void slot_cache_unpin(SlotCache *cache, Slot *slot);

/* The same, by who expects that nobody needs the content again: it goes before content
 * that was pinned, or loaded, and not given back so. */
void slot_cache_unpin_spent(SlotCache *cache, Slot *slot);

/* Whether a pinned slot is the caller's alone: others get the content from elsewhere. */
bool slot_is_own(const Slot *slot);

/* Lets the cache forget the content of @key, waiting while it is pinned or being loaded.
 * Who asks for it meanwhile may still get it. No lock but one of rank ALLOC may be held.
 */
void slot_cache_forget(SlotCache *cache, uint64_t key);

/* The content of a pinned slot. */
void *slot_bytes(const Slot *slot);

/* The steps in which the content of a pinned slot was changed, counted by its users. */
_Atomic uint64_t *slot_steps(Slot *slot);

typedef struct {
    uint64_t n_hits;
    uint64_t n_misses;
    uint64_t used_bytes; /* memory that slots hold */
    uint64_t max_bytes;
} SlotCacheStats;

/* Counters: exact when no request is under way. */
SlotCacheStats slot_cache_get_stats(const SlotCache *cache);
