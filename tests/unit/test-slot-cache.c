/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cache/slot-cache.c: hits, eviction, one load for many threads, errors, pins, budgets;
 * and many threads over a cache that is always too small. */
#include "cache/slot-cache.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "cache/table-cache.h"
#include "memory-storage.h"
#include "test-util.h"

#define SLOT_BYTES 64u

typedef struct {
    atomic_uint n_loads;
    QimgErrno error; /* result of loads */
    /* A load that waits until the test releases it. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_blocked;
    bool is_loading;
} Source;

static void
source_init(Source *source)
{
    *source = (Source){.error = 0};
    pthread_mutex_init(&source->lock, NULL);
    pthread_cond_init(&source->changed, NULL);
}

static void
source_clear(Source *source)
{
    pthread_cond_destroy(&source->changed);
    pthread_mutex_destroy(&source->lock);
}

static QimgErrno
load(void *user, uint64_t key, void *bytes)
{
    Source *source = user;

    atomic_fetch_add(&source->n_loads, 1);
    pthread_mutex_lock(&source->lock);
    source->is_loading = true;
    pthread_cond_broadcast(&source->changed);
    while (source->is_blocked)
        pthread_cond_wait(&source->changed, &source->lock);
    pthread_mutex_unlock(&source->lock);
    for (unsigned i = 0; i < SLOT_BYTES / 8; i++)
        ((uint64_t *)bytes)[i] = key * 1000 + i;
    return source->error;
}

static bool
slot_is(const Slot *slot, uint64_t key)
{
    for (unsigned i = 0; i < SLOT_BYTES / 8; i++)
        if (((const uint64_t *)slot_bytes(slot))[i] != key * 1000 + i)
            return false;
    return true;
}

static Slot *
pin(SlotCache *cache, Source *source, uint64_t key)
{
    Slot *slot = NULL;

    g_assert_cmpint(slot_cache_pin(cache, key, load, source, &slot), ==, 0);
    g_assert_true(slot_is(slot, key));
    return slot;
}

static void
touch(SlotCache *cache, Source *source, uint64_t key)
{
    slot_cache_unpin(cache, pin(cache, source, key));
}

static void
test_hits(void)
{
    SlotCache *cache = slot_cache_new(SLOT_BYTES, 8 * SLOT_BYTES);
    SlotCacheStats stats;
    Source source;
    Slot *slot;

    source_init(&source);
    g_assert_null(slot_cache_pin_present(cache, 1));
    for (uint64_t key = 1; key <= 8; key++)
        touch(cache, &source, key);
    for (uint64_t key = 8; key >= 1; key--)
        touch(cache, &source, key);
    g_assert_cmpuint(atomic_load(&source.n_loads), ==, 8);
    slot = slot_cache_pin_present(cache, 5);
    g_assert_nonnull(slot);
    g_assert_true(slot_is(slot, 5));
    slot_cache_unpin(cache, slot);
    stats = slot_cache_get_stats(cache);
    g_assert_cmpuint(stats.n_hits, ==, 9);
    g_assert_cmpuint(stats.n_misses, ==, 8);
    g_assert_cmpuint(stats.used_bytes, ==, 8 * SLOT_BYTES);
    g_assert_cmpuint(stats.max_bytes, ==, 8 * SLOT_BYTES);
    slot_cache_free(cache);
    slot_cache_free(NULL);
    source_clear(&source);
}

static void
test_eviction(void)
{
    SlotCache *cache = slot_cache_new(SLOT_BYTES, 8 * SLOT_BYTES);
    Source source;
    Slot *kept;

    source_init(&source);
    kept = pin(cache, &source, 1000);
    for (uint64_t key = 1; key <= 100; key++)
        touch(cache, &source, key);
    g_assert_cmpuint(atomic_load(&source.n_loads), ==, 101);
    g_assert_true(slot_is(kept, 1000)); /* pinned all the while */
    slot_cache_unpin(cache, kept);
    g_assert_cmpuint(slot_cache_get_stats(cache).used_bytes, ==, 8 * SLOT_BYTES);
    /* The last key is still cached; most of the first ones are not. */
    touch(cache, &source, 100);
    g_assert_cmpuint(atomic_load(&source.n_loads), ==, 101);
    touch(cache, &source, 1);
    g_assert_cmpuint(atomic_load(&source.n_loads), ==, 102);
    slot_cache_free(cache);
    source_clear(&source);
}

static bool
is_present(SlotCache *cache, uint64_t key)
{
    Slot *slot = slot_cache_pin_present(cache, key);

    if (slot)
        slot_cache_unpin(cache, slot);
    return slot != NULL;
}

/* Spent content is replaced first, in the order of loading; content loaded ahead stays,
 * while any number of others come and go. */
static void
test_spent(void)
{
    SlotCache *cache = slot_cache_new(SLOT_BYTES, 8 * SLOT_BYTES);
    Source source;

    source_init(&source);
    for (uint64_t key = 1; key <= 5; key++)
        touch(cache, &source, key);
    for (uint64_t key = 11; key <= 13; key++)
        slot_cache_unpin_spent(cache, pin(cache, &source, key));
    g_assert_cmpuint(atomic_load(&source.n_loads), ==, 8);
    for (uint64_t key = 14; key <= 100; key++) {
        slot_cache_unpin_spent(cache, pin(cache, &source, key));
        for (uint64_t old = 11; old <= key - 3; old++)
            g_assert_false(is_present(cache, old));
        for (uint64_t recent = key - 2; recent <= key; recent++) {
            Slot *slot = slot_cache_pin_present(cache, recent);

            g_assert_nonnull(slot);
            slot_cache_unpin_spent(cache, slot);
        }
    }
    for (uint64_t key = 1; key <= 5; key++)
        g_assert_true(is_present(cache, key));
    /* Without spent content, the oldest is replaced, and others that are not used
     * again. */
    for (uint64_t key = 201; key <= 203; key++)
        touch(cache, &source, key);
    touch(cache, &source, 204);
    g_assert_false(is_present(cache, 1));
    g_assert_true(is_present(cache, 2));
    touch(cache, &source, 205);
    g_assert_true(is_present(cache, 2));
    g_assert_false(is_present(cache, 3));
    g_assert_true(is_present(cache, 204));
    slot_cache_free(cache);
    source_clear(&source);
}

static void
test_all_pinned(void)
{
    SlotCache *cache = slot_cache_new(SLOT_BYTES, 8 * SLOT_BYTES);
    Source source;
    Slot *slots[20];

    source_init(&source);
    for (unsigned i = 0; i < 20; i++)
        slots[i] = pin(cache, &source, i + 1);
    for (unsigned i = 0; i < 20; i++)
        g_assert_true(slot_is(slots[i], i + 1));
    g_assert_cmpuint(slot_cache_get_stats(cache).used_bytes, ==, 8 * SLOT_BYTES);
    g_assert_null(
        slot_cache_pin_present(cache, 20)); /* private slots are invisible to others */
    for (unsigned i = 0; i < 20; i++)
        slot_cache_unpin(cache, slots[i]);
    /* Also an error of a private slot's load. */
    for (unsigned i = 0; i < 8; i++)
        slots[i] = pin(cache, &source, i + 101);
    source.error = -EIO;
    g_assert_cmpint(slot_cache_pin(cache, 200, load, &source, &slots[8]), ==, -EIO);
    for (unsigned i = 0; i < 8; i++)
        slot_cache_unpin(cache, slots[i]);
    slot_cache_free(cache);
    source_clear(&source);
}

static void
test_errors(void)
{
    SlotCache *cache = slot_cache_new(SLOT_BYTES, 8 * SLOT_BYTES);
    Source source;
    Slot *slot = NULL;

    source_init(&source);
    source.error = -ESTALE;
    for (unsigned i = 0; i < 50; i++)
        g_assert_cmpint(slot_cache_pin(cache, 7, load, &source, &slot), ==, -ESTALE);
    g_assert_null(slot);
    g_assert_cmpuint(atomic_load(&source.n_loads), ==, 50); /* errors are not cached */
    source.error = 0;
    touch(cache, &source, 7);
    touch(cache, &source, 7);
    g_assert_cmpuint(atomic_load(&source.n_loads), ==, 51);
    slot_cache_free(cache);
    source_clear(&source);
}

static void
test_budgets(void)
{
    for (uint64_t n_slots = 0; n_slots <= 100; n_slots++) {
        SlotCache *cache = slot_cache_new(SLOT_BYTES, n_slots * SLOT_BYTES + 13);
        SlotCacheStats stats = slot_cache_get_stats(cache);
        Source source;

        source_init(&source);
        g_assert_cmpuint(stats.max_bytes, <=, n_slots * SLOT_BYTES);
        g_assert_cmpuint(stats.used_bytes, ==, 0);
        for (uint64_t key = 1; key <= 300; key++)
            touch(cache, &source, key);
        stats = slot_cache_get_stats(cache);
        g_assert_cmpuint(stats.used_bytes, <=, stats.max_bytes);
        touch(cache, &source, 300);
        g_assert_cmpuint(atomic_load(&source.n_loads), ==, n_slots == 0 ? 301 : 300);
        slot_cache_free(cache);
        source_clear(&source);
    }
}

typedef struct {
    SlotCache *cache;
    Source *source;
    uint64_t key;
    QimgErrno result;
} Pinner;

static void *
pin_once(void *user)
{
    Pinner *pinner = user;
    Slot *slot;

    pinner->result =
        slot_cache_pin(pinner->cache, pinner->key, load, pinner->source, &slot);
    if (!pinner->result) {
        if (!slot_is(slot, pinner->key))
            pinner->result = -EBADMSG;
        slot_cache_unpin(pinner->cache, slot);
    }
    return NULL;
}

/* Threads that need a key while it is being loaded wait for that one load; threads that
 * need another key do not. */
static void
test_single_load(void)
{
    SlotCache *cache = slot_cache_new(SLOT_BYTES, 8 * SLOT_BYTES);
    Pinner pinners[9];
    pthread_t threads[9];
    Source source, other;

    source_init(&source);
    source_init(&other);
    source.is_blocked = true;
    for (unsigned i = 0; i < 9; i++) {
        pinners[i] = (Pinner){.cache = cache, .source = &source, .key = 42};
        g_assert_cmpint(pthread_create(&threads[i], NULL, pin_once, &pinners[i]), ==, 0);
    }
    pthread_mutex_lock(&source.lock);
    while (!source.is_loading)
        pthread_cond_wait(&source.changed, &source.lock);
    pthread_mutex_unlock(&source.lock);
    g_assert_null(slot_cache_pin_present(cache, 42));
    for (uint64_t key = 1; key < 6; key++)
        touch(cache, &other, key);
    pthread_mutex_lock(&source.lock);
    source.is_blocked = false;
    pthread_cond_broadcast(&source.changed);
    pthread_mutex_unlock(&source.lock);
    for (unsigned i = 0; i < 9; i++) {
        pthread_join(threads[i], NULL);
        g_assert_cmpint(pinners[i].result, ==, 0);
    }
    g_assert_cmpuint(atomic_load(&source.n_loads), ==, 1);
    slot_cache_free(cache);
    source_clear(&other);
    source_clear(&source);
}

#define N_THREADS 6u

typedef struct {
    SlotCache *cache;
    Source *source;
    uint32_t seed;
    unsigned n_wrong;
} Hammer;

static void *
hammer(void *user)
{
    Hammer *h = user;
    GRand *rand = g_rand_new_with_seed(h->seed);
    Slot *held[3] = {0};
    uint64_t held_key[3] = {0};

    for (unsigned i = 0; i < 20000; i++) {
        unsigned n = (unsigned)g_rand_int_range(rand, 0, 3);
        uint64_t key = 1 + (uint64_t)g_rand_int_range(rand, 0, 40);

        if (held[n]) {
            h->n_wrong += !slot_is(held[n], held_key[n]);
            slot_cache_unpin(h->cache, held[n]);
            held[n] = NULL;
        }
        if (i % 4 == 0)
            held[n] = slot_cache_pin_present(h->cache, key);
        else if (slot_cache_pin(h->cache, key, load, h->source, &held[n]))
            h->n_wrong++;
        held_key[n] = key;
        if (held[n])
            h->n_wrong += !slot_is(held[n], key);
    }
    for (unsigned n = 0; n < 3; n++)
        if (held[n])
            slot_cache_unpin(h->cache, held[n]);
    g_rand_free(rand);
    return NULL;
}

static void
test_hammer(void)
{
    uint32_t seed = test_util_seed();
    static const unsigned n_slots[] = {0, 1, 5, 8, 16, 64};

    for (size_t i = 0; i < G_N_ELEMENTS(n_slots); i++) {
        SlotCache *cache = slot_cache_new(SLOT_BYTES, n_slots[i] * SLOT_BYTES);
        Hammer hammers[N_THREADS];
        pthread_t threads[N_THREADS];
        SlotCacheStats stats;
        Source source;

        source_init(&source);
        for (unsigned t = 0; t < N_THREADS; t++) {
            hammers[t] = (Hammer){.cache = cache, .source = &source, .seed = seed + t};
            g_assert_cmpint(pthread_create(&threads[t], NULL, hammer, &hammers[t]), ==,
                            0);
        }
        for (unsigned t = 0; t < N_THREADS; t++) {
            pthread_join(threads[t], NULL);
            g_assert_cmpuint(hammers[t].n_wrong, ==, 0);
        }
        stats = slot_cache_get_stats(cache);
        g_assert_cmpuint(stats.used_bytes, <=, n_slots[i] * SLOT_BYTES);
        slot_cache_free(cache);
        source_clear(&source);
    }
}

/* Slices of tables: host-endian words, each key its own slice. */
static void
test_table_slices(void)
{
    g_autofree uint8_t *bytes = g_malloc0(3 * TABLE_SLICE_BYTES);
    TableCache *cache = slot_cache_new(TABLE_SLICE_BYTES, 16 * TABLE_SLICE_BYTES);
    QimgStorage *storage;
    TableSlice slice = {0};

    for (unsigned i = 0; i < 3 * TABLE_SLICE_WORDS; i++) {
        bytes[8 * i + 6] = (uint8_t)(i >> 8);
        bytes[8 * i + 7] = (uint8_t)i;
    }
    storage = memory_storage_new(bytes, 3 * TABLE_SLICE_BYTES - 8, "tables");
    for (unsigned i = 0; i < 4; i++) {
        uint64_t first = i * 64;

        g_assert_cmpint(table_cache_pin(cache, i % 2 ? TABLE_L1 : TABLE_L2,
                                        (TableFile){storage, i / 2, false},
                                        qimg_host(first * 8), TABLE_SLICE_WORDS, &slice),
                        ==, 0);
        g_assert_cmpuint(table_slice_get(&slice, 0), ==, first);
        g_assert_cmpuint(table_slice_get(&slice, 511), ==, first + 511);
        table_slice_unpin(&slice);
        table_slice_unpin(&slice); /* pins nothing now */
    }
    g_assert_cmpuint(storage->n_reads[QIMG_IO_L1], ==, 2);
    g_assert_cmpuint(storage->n_reads[QIMG_IO_L2], ==, 2);
    /* The file ends inside: the rest is zeros. */
    g_assert_cmpint(table_cache_pin(cache, TABLE_L1, (TableFile){storage, 9, false},
                                    qimg_host(2 * TABLE_SLICE_BYTES), TABLE_SLICE_WORDS,
                                    &slice),
                    ==, 0);
    g_assert_cmpuint(table_slice_get(&slice, 510), ==, 1534);
    g_assert_cmpuint(table_slice_get(&slice, 511), ==, 0);
    table_slice_unpin(&slice);
    g_assert_cmpint(table_cache_pin(cache, TABLE_L1, (TableFile){storage, 8, true},
                                    qimg_host(0), TABLE_SLICE_WORDS, &slice),
                    ==, 0);
    g_assert_cmpuint(table_slice_get(&slice, 1), ==, UINT64_C(1) << 56);
    table_slice_unpin(&slice);
    memory_storage_fail(storage, QIMG_IO_L2, 0, 1, EIO);
    g_assert_cmpint(table_cache_pin(cache, TABLE_L2, (TableFile){storage, 9, false},
                                    qimg_host(0), 64, &slice),
                    ==, -EIO);
    slot_cache_free(cache);
    qimg_storage_close(storage);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/slot-cache/hits", test_hits);
    g_test_add_func("/slot-cache/eviction", test_eviction);
    g_test_add_func("/slot-cache/spent", test_spent);
    g_test_add_func("/slot-cache/all-pinned", test_all_pinned);
    g_test_add_func("/slot-cache/errors", test_errors);
    g_test_add_func("/slot-cache/budgets", test_budgets);
    g_test_add_func("/slot-cache/single-load", test_single_load);
    g_test_add_func("/slot-cache/hammer", test_hammer);
    g_test_add_func("/table-cache/slices", test_table_slices);
    return g_test_run();
}
