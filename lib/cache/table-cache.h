/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slices of on-disk tables (L1, L2) as host-endian atomic words, shared by all layers of
 * a chain within one budget; also holds computed tables (the resolved runs of a chain's
 * lower layers, image/map/resolve.c). */
#pragma once

#include <stdatomic.h>

#include "behind/behind.h"
#include "cache/slot-cache.h"
#include "storage/storage.h"

/* 4 KiB: the minimal read of the host's page cache, so that a random read through tables
 * far larger than the cache costs one page, not a whole table. */
#define TABLE_SLICE_BYTES 4096u
#define TABLE_SLICE_WORDS (TABLE_SLICE_BYTES / 8)

/* The source of a slice: part of its key. */
typedef enum {
    TABLE_L1 = 1, /* not 0: no key is 0 */
    TABLE_L2 = 2,
    TABLE_RESOLVED = 3,
} TableKind;

typedef SlotCache TableCache;

/* A file with tables. */
typedef struct {
    QimgStorage *storage;
    unsigned layer; /* below 256 */
    bool is_little_endian;
    QimgBehind *behind; /* entries pending for the file; may be NULL */
} TableFile;

typedef struct {
    TableCache *cache; /* const */
    Slot *slot;        /* owned pin; NULL: nothing is pinned */
    /* The slice's words: loaded with acquire, stored with release. */
    _Atomic uint64_t *words;
    _Atomic uint64_t *n_steps; /* see table_slice_begin_step */
} TableSlice;

/* Key of a slice: @layer below 256, @number below 2^54 (host offset / 512, or an index).
 */
static inline uint64_t
table_key(TableKind kind, unsigned layer, uint64_t number)
{
    return (uint64_t)kind << 62 | (uint64_t)(layer & 0xffu) << 54 | number;
}

/* Pins the slice of a table in @file that begins at @host_offset (a multiple of 512);
 * @kind is L1 or L2. Only the first @n_words (at most TABLE_SLICE_WORDS) are defined; all
 * pins of one slice pass the same number. Unpin with table_slice_unpin. Threads: any; no
 * lock may be held; waits for I/O on a miss. Errors: of the storage, -ENOMEM. */
QimgErrno table_cache_pin(TableCache *cache, TableKind kind, TableFile file,
                          QimgHostOffset host_offset, unsigned n_words,
                          TableSlice *slice_out) QIMG_MUST_CHECK;

/* Whether the slice is cached at this moment. Threads: any. */
bool table_cache_has(TableCache *cache, TableKind kind, unsigned layer,
                     QimgHostOffset host_offset);

/* As table_cache_pin, for a writer of the slice: pins the shared slot that all others
 * see, for as long as it is pinned. The caller changes the file first and then the words
 * (table_slice_set). Not for caches smaller than 8 slices. */
QimgErrno table_cache_pin_to_change(TableCache *cache, TableKind kind, TableFile file,
                                    QimgHostOffset host_offset, unsigned n_words,
                                    TableSlice *slice_out) QIMG_MUST_CHECK;

/* Drops the slice at @host_offset, which must be neither in use nor requested
 * meanwhile. */
void table_cache_forget(TableCache *cache, TableKind kind, unsigned layer,
                        QimgHostOffset host_offset);

/* Unpins the slice; accepts one that pins nothing. */
void table_slice_unpin(TableSlice *slice);

/* One word of a pinned slice, below TABLE_SLICE_WORDS. Pairs with the release of the
 * loader (and of a later writer). */
static inline uint64_t
table_slice_get(const TableSlice *slice, uint64_t word_index)
{
    return atomic_load_explicit(&slice->words[word_index], memory_order_acquire);
}

/* Changes one word of a slice pinned for writing. A reader of the new word also sees the
 * data that the word refers to. */
static inline void
table_slice_set(TableSlice *slice, uint64_t word_index, uint64_t word)
{
    atomic_store_explicit(&slice->words[word_index], word, memory_order_release);
}

/* Begins a step: a writer of an entry of several words stores at most one of them per
 * step. A reader that finds the same number before and after its loads has words that
 * were in the slice together: at most one store to the entry lies between its loads. */
static inline void
table_slice_begin_step(TableSlice *slice)
{
    /* Release: pairs with table_slice_get_step. */
    atomic_fetch_add_explicit(slice->n_steps, 1, memory_order_acq_rel);
}

/* The number of steps begun. Acquire: later loads see all stores of earlier steps. */
static inline uint64_t
table_slice_get_step(const TableSlice *slice)
{
    return atomic_load_explicit(slice->n_steps, memory_order_acquire);
}

/* The number of zero words from @index on, at most @n_max: walks over large empty disks
 * skip entries by the million. */
static inline uint64_t
table_slice_count_zeros(const TableSlice *slice, uint64_t index, uint64_t n_max)
{
    uint64_t n = 0;

    while (n + 4 <= n_max) {
        uint64_t any =
            table_slice_get(slice, index + n) | table_slice_get(slice, index + n + 1) |
            table_slice_get(slice, index + n + 2) | table_slice_get(slice, index + n + 3);

        if (any)
            break;
        n += 4;
    }
    while (n < n_max && table_slice_get(slice, index + n) == 0)
        n++;
    return n;
}

#define table_autoslice __attribute__((cleanup(table_slice_unpin))) TableSlice
