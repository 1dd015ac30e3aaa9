/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A set-associative cache whose hits take no lock.
 *
 * States of a slot (by key, pins, pending):
 *
 *     EMPTY ──claim──▶ LOADING ──ok──▶ VALID ──claim──▶ LOADING …
 *                         └──error──▶ EMPTY
 *
 *   EMPTY    key 0, not claimed. Content undefined.
 *   LOADING  key 0, pins has CLAIMED, pending is the key being loaded. The content
 *            belongs to the claiming thread.
 *   VALID    key not 0. A reader that has pinned the slot may read the content.
 *
 * I1  A slot is claimed only by changing pins from 0 to CLAIMED in one step, so never
 *     while it is pinned.
 *
 * I2  After pinning, re-check the key; if the slot was claimed or holds another key,
 *     unpin. Read nothing before the check.
 *
 * I3  At most one slot of a set has a given key or pending key: both change under the
 *     lock of the set's stripe. */
#include "cache/slot-cache.h"

#include <errno.h>
#include <glib.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/lock.h"
#include "base/trace.h"

#define MAX_WAYS         8u
#define N_STRIPES        16u
#define N_COUNTER_SHARDS 8u
#define CLAIMED          0x80000000u

struct Slot {
    _Atomic uint64_t key;  /* atomic: 0 or the key of the content */
    _Atomic uint32_t pins; /* atomic: readers, and CLAIMED */
    _Atomic uint32_t
        is_used; /* atomic, relaxed: pinned since the last sweep, and not spent */
    _Atomic uint64_t
        n_steps;          /* atomic: counted by users that pinned the slot; only grows */
    uint64_t pending;     /* guarded by the stripe's lock */
    uint64_t load_number; /* guarded by the stripe's lock: number of the last load */
    uint8_t *bytes;       /* const after new; own slots: freed with them */
    bool was_filled;      /* guarded by the stripe's lock */
    bool is_own;          /* const: not in the table, freed when unpinned */
};

typedef struct {
    QimgMutex lock; /* rank QIMG_RANK_CACHE */
    QimgCond loaded;
    unsigned n_waiting; /* guarded by lock */
    uint64_t n_misses;  /* guarded by lock */
    uint64_t n_loads;   /* guarded by lock: loads begun */
    uint64_t n_filled;  /* guarded by lock: slots filled at least once */
} Stripe;

/* Hit counters are spread, so that threads do not share a cache line. */
typedef struct {
    _Alignas(64) _Atomic uint64_t n_hits;
} CounterShard;

struct SlotCache {
    CounterShard hits[N_COUNTER_SHARDS]; /* atomic, relaxed */
    Stripe stripes[N_STRIPES];
    Slot *slots;      /* const: n_sets * n_ways, behind @memory */
    uint8_t *memory;  /* const: the slots' bytes */
    size_t n_mapped;  /* const: bytes from @memory to the end of @slots */
    size_t slot_size; /* const: bytes */
    uint64_t n_sets;  /* const: a power of two */
    unsigned n_ways;  /* const: slots available to a key; 0: caches nothing */
};

static unsigned
counter_shard(void)
{
    static atomic_uint n_threads;
    static _Thread_local unsigned mine; /* shard + 1 */

    if (mine == 0)
        mine = atomic_fetch_add_explicit(&n_threads, 1, memory_order_relaxed) %
                   N_COUNTER_SHARDS +
               1;
    return mine - 1;
}

/* Spreads keys that differ in few bits over all sets (a multiplicative finalizer). */
static uint64_t
hash_key(uint64_t key)
{
    key ^= key >> 32;
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return key ^ (key >> 29);
}

SlotCache *
slot_cache_new(size_t slot_size, uint64_t max_bytes)
{
    uint64_t n_slots = max_bytes / slot_size;
    unsigned n_ways = (unsigned)qimg_min_u64(n_slots, MAX_WAYS);
    uint64_t n_sets = 1;
    SlotCache *cache;
    size_t memory_bytes, n_mapped;
    uint8_t *memory;

    while (n_sets * 2 * MAX_WAYS <= n_slots)
        n_sets *= 2;
    memory_bytes = (size_t)n_sets * qimg_max_u64(n_ways, 1) * slot_size;
    /* Maps the slots, too, so that an almost empty cache takes little memory. */
    n_mapped = memory_bytes + (size_t)n_sets * qimg_max_u64(n_ways, 1) * sizeof(Slot);
    memory = mmap(NULL, n_mapped, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    cache = aligned_alloc(64, (sizeof *cache + 63) & ~(size_t)63);
    if (!cache) {
        munmap(memory, n_mapped);
        return NULL;
    }
    *cache = (SlotCache){.memory = memory,
                         .slots = (Slot *)(void *)(memory + memory_bytes),
                         .n_mapped = n_mapped,
                         .slot_size = slot_size,
                         .n_sets = n_sets,
                         .n_ways = n_ways};
    for (unsigned i = 0; i < N_STRIPES; i++) {
        qimg_mutex_init(&cache->stripes[i].lock, QIMG_RANK_CACHE);
        qimg_cond_init(&cache->stripes[i].loaded);
    }
    return cache;
}

void
slot_cache_free(SlotCache *cache)
{
    if (!cache)
        return;
    for (unsigned i = 0; i < N_STRIPES; i++) {
        qimg_cond_clear(&cache->stripes[i].loaded);
        qimg_mutex_clear(&cache->stripes[i].lock);
    }
    munmap(cache->memory, cache->n_mapped);
    free(cache);
}

void *
slot_bytes(const Slot *slot)
{
    return slot->bytes;
}

_Atomic uint64_t *
slot_steps(Slot *slot)
{
    return &slot->n_steps;
}

static Slot *
pin_in_set(Slot *set, unsigned n_ways, uint64_t key)
{
    for (unsigned way = 0; way < n_ways; way++) {
        Slot *slot = &set[way];
        uint32_t pins;

        if (atomic_load_explicit(&slot->key, memory_order_relaxed) != key)
            continue;
        /* Pairs with the claim in claim_victim (I1, I2). */
        pins = atomic_fetch_add_explicit(&slot->pins, 1, memory_order_acquire);
        /* Pairs with the release in finish_load, which publishes the content. */
        if (!(pins & CLAIMED) &&
            atomic_load_explicit(&slot->key, memory_order_acquire) == key) {
            if (!atomic_load_explicit(&slot->is_used, memory_order_relaxed))
                atomic_store_explicit(&slot->is_used, 1, memory_order_relaxed);
            return slot;
        }
        atomic_fetch_sub_explicit(&slot->pins, 1, memory_order_release);
    }
    return NULL;
}

static Slot *
set_of(const SlotCache *cache, uint64_t key)
{
    return &cache->slots[(hash_key(key) & (cache->n_sets - 1)) * cache->n_ways];
}

static Stripe *
stripe_of(SlotCache *cache, const Slot *set)
{
    return &cache->stripes[(size_t)(set - cache->slots) / MAX_WAYS % N_STRIPES];
}

static void
count_hit(SlotCache *cache)
{
    atomic_fetch_add_explicit(&cache->hits[counter_shard()].n_hits, 1,
                              memory_order_relaxed);
}

static bool
is_pending(const Slot *set, unsigned n_ways, uint64_t key)
{
    for (unsigned way = 0; way < n_ways; way++)
        if (set[way].pending == key)
            return true;
    return false;
}

static bool
try_claim(Slot *slot)
{
    uint32_t free_pins = 0;

    /* Acquire pairs with the release of the last unpin: that user's reads are over. */
    return atomic_compare_exchange_strong_explicit(
        &slot->pins, &free_pins, CLAIMED, memory_order_acq_rel, memory_order_relaxed);
}

static bool
is_empty(const Slot *slot)
{
    return atomic_load_explicit(&slot->key, memory_order_relaxed) == 0;
}

static bool
is_used(const Slot *slot)
{
    return atomic_load_explicit(&slot->is_used, memory_order_relaxed) != 0;
}

/* Whether @slot is replaced before @other: an empty one first, then one not used lately,
 * then the one loaded first. */
static bool
goes_before(const Slot *slot, const Slot *other)
{
    if (is_empty(slot) != is_empty(other))
        return is_empty(slot);
    if (is_used(slot) != is_used(other))
        return !is_used(slot);
    return slot->load_number < other->load_number;
}

/* Claims an unpinned slot of @set for @key, if there is one. Under the stripe's lock. */
static Slot *
claim_victim(Stripe *stripe, Slot *set, unsigned n_ways, uint64_t key)
{
    Slot *victim;

    do { /* retry if the victim was pinned in between */
        victim = NULL;
        for (unsigned way = 0; way < n_ways; way++) {
            Slot *slot = &set[way];

            if (slot->pending == 0 &&
                atomic_load_explicit(&slot->pins, memory_order_relaxed) == 0 &&
                (!victim || goes_before(slot, victim)))
                victim = slot;
        }
        if (!victim)
            return NULL;
    } while (!try_claim(victim));
    if (!is_empty(victim) && is_used(victim)) /* all are used: start a new sweep */
        for (unsigned way = 0; way < n_ways; way++)
            atomic_store_explicit(&set[way].is_used, 0, memory_order_relaxed);
    atomic_store_explicit(&victim->key, 0, memory_order_relaxed);
    victim->pending = key;
    victim->load_number = ++stripe->n_loads;
    return victim;
}

static void
finish_load(Stripe *stripe, Slot *slot, uint64_t key, bool is_valid)
{
    QIMG_LOCK_SCOPE(&stripe->lock);

    slot->pending = 0;
    if (!slot->was_filled) {
        slot->was_filled = true;
        stripe->n_filled++;
    }
    if (is_valid) {
        atomic_store_explicit(&slot->is_used, 1, memory_order_relaxed);
        /* Pairs with the acquire in pin_in_set. */
        atomic_store_explicit(&slot->key, key, memory_order_release);
        /* Keep one pin for the caller. */
        atomic_fetch_sub_explicit(&slot->pins, CLAIMED - 1, memory_order_release);
    } else {
        atomic_fetch_sub_explicit(&slot->pins, CLAIMED, memory_order_release);
    }
    if (stripe->n_waiting > 0)
        qimg_cond_broadcast(&stripe->loaded);
}

/* All slots of the set are busy: gives the caller a private one. */
static QimgErrno
load_own(const SlotCache *cache, uint64_t key, SlotLoad load, void *user, Slot **slot_out)
{
    Slot *slot = g_try_new0(Slot, 1);
    QimgErrno err;

    if (!slot)
        return -ENOMEM;
    slot->is_own = true;
    slot->bytes = g_try_malloc(cache->slot_size);
    err = slot->bytes ? load(user, key, slot->bytes) : -ENOMEM;
    if (err) {
        g_free(slot->bytes);
        g_free(slot);
        return err;
    }
    *slot_out = slot;
    return 0;
}

static QimgErrno
pin_slow(SlotCache *cache, Slot *set, uint64_t key, SlotLoad load, void *user,
         Slot **slot_out)
{
    Stripe *stripe = stripe_of(cache, set);
    Slot *slot;
    QimgErrno err;

    qimg_mutex_lock(&stripe->lock);
    stripe->n_misses++;
    while (!(slot = pin_in_set(set, cache->n_ways, key)) &&
           is_pending(set, cache->n_ways, key)) {
        stripe->n_waiting++;
        qimg_cond_wait(&stripe->loaded, &stripe->lock);
        stripe->n_waiting--;
    }
    if (slot) {
        qimg_mutex_unlock(&stripe->lock);
        *slot_out = slot;
        return 0;
    }
    slot = claim_victim(stripe, set, cache->n_ways, key);
    qimg_mutex_unlock(&stripe->lock);
    QIMG_TRACE2(cache__miss, cache, key);
    if (!slot)
        return load_own(cache, key, load, user, slot_out);
    if (!slot->bytes) /* owned through the claim; const from then on */
        slot->bytes = cache->memory + (size_t)(slot - cache->slots) * cache->slot_size;
    err = load(user, key, slot->bytes);
    finish_load(stripe, slot, key, err == 0);
    if (!err)
        *slot_out = slot;
    return err;
}

QimgErrno
slot_cache_pin(SlotCache *cache, uint64_t key, SlotLoad load, void *user, Slot **slot_out)
{
    Slot *set = set_of(cache, key);
    Slot *slot = pin_in_set(set, cache->n_ways, key);

    if (!slot)
        return pin_slow(cache, set, key, load, user, slot_out);
    count_hit(cache);
    *slot_out = slot;
    return 0;
}

Slot *
slot_cache_pin_present(SlotCache *cache, uint64_t key)
{
    Slot *slot = pin_in_set(set_of(cache, key), cache->n_ways, key);

    if (slot)
        count_hit(cache);
    return slot;
}

bool
slot_cache_has(SlotCache *cache, uint64_t key)
{
    const Slot *set = set_of(cache, key);

    for (unsigned way = 0; way < cache->n_ways; way++)
        if (atomic_load_explicit(&set[way].key, memory_order_relaxed) == key)
            return true;
    return false;
}

void
slot_cache_unpin(SlotCache *cache, Slot *slot)
{
    (void)cache;
    if (slot->is_own) {
        g_free(slot->bytes);
        g_free(slot);
        return;
    }
    /* Pairs with the acquire of a later claim. */
    atomic_fetch_sub_explicit(&slot->pins, 1, memory_order_release);
}

void
slot_cache_unpin_spent(SlotCache *cache, Slot *slot)
{
    atomic_store_explicit(&slot->is_used, 0, memory_order_relaxed);
    slot_cache_unpin(cache, slot);
}

bool
slot_is_own(const Slot *slot)
{
    return slot->is_own;
}

/* Empties the slot of @key; false while it is in use. */
static bool
try_forget(SlotCache *cache, Slot *set, uint64_t key)
{
    Stripe *stripe = stripe_of(cache, set);
    QIMG_LOCK_SCOPE(&stripe->lock);

    for (unsigned way = 0; way < cache->n_ways; way++) {
        Slot *slot = &set[way];

        if (slot->pending == key)
            return false;
        if (atomic_load_explicit(&slot->key, memory_order_relaxed) != key)
            continue;
        if (!try_claim(slot))
            return false;
        atomic_store_explicit(&slot->key, 0, memory_order_relaxed);
        atomic_fetch_sub_explicit(&slot->pins, CLAIMED, memory_order_release);
        return true;
    }
    return true;
}

void
slot_cache_forget(SlotCache *cache, uint64_t key)
{
    while (!try_forget(cache, set_of(cache, key), key))
        sched_yield();
}

SlotCacheStats
slot_cache_get_stats(const SlotCache *cache)
{
    SlotCacheStats stats = {.max_bytes =
                                cache->n_sets * cache->n_ways * cache->slot_size};

    for (unsigned i = 0; i < N_COUNTER_SHARDS; i++)
        stats.n_hits +=
            atomic_load_explicit(&cache->hits[i].n_hits, memory_order_relaxed);
    for (unsigned i = 0; i < N_STRIPES; i++) {
        Stripe *stripe = (Stripe *)&cache->stripes[i];
        QIMG_LOCK_SCOPE(&stripe->lock);

        stats.n_misses += stripe->n_misses;
        stats.used_bytes += stripe->n_filled * cache->slot_size;
    }
    return stats;
}
