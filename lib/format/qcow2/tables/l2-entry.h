/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loads and stores of L2 entries in a cached slice, in this file only.
 *
 * An extended entry is two words, and a reader takes no lock. A store is two steps, one
 * for each word, in the order in which the intermediate state is valid: the old word fits
 * either bitmap, or the new word does. A load returns two words that were stored at the
 * same time, so a state that a writer made; it repeats only while a writer continues. */
#pragma once

#include "cache/table-cache.h"

/* An entry as stored in its slice. */
typedef struct {
    uint64_t word;
    uint64_t bitmap; /* extended entries; else 0 */
} Qcow2L2Words;

/* Loads the entry with number @index in the slice; @n_words: 1, or 2 of extended ones.
 * Threads: any, while an entry has one writer. */
static inline Qcow2L2Words
qcow2_l2_load(const TableSlice *slice, uint64_t index, uint64_t n_words)
{
    Qcow2L2Words e = {0};
    uint64_t step, step_again;

    if (n_words == 1) {
        e.word = table_slice_get(slice, index);
        return e;
    }
    step_again = table_slice_get_step(slice);
    do {
        step = step_again;
        e.word = table_slice_get(slice, index * 2);
        e.bitmap = table_slice_get(slice, index * 2 + 1);
        step_again = table_slice_get_step(slice);
    } while (step_again != step);
    return e;
}

/* Loads @n words of whole entries at word @word_index of the slice. As qcow2_l2_load. */
static inline void
qcow2_l2_load_words(const TableSlice *slice, uint64_t word_index, uint64_t n_words,
                    uint64_t *words_out, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += n_words) {
        Qcow2L2Words e = qcow2_l2_load(slice, (word_index + i) / n_words, n_words);

        words_out[i] = e.word;
        if (n_words == 2)
            words_out[i + 1] = e.bitmap;
    }
}

/* Stores @n_words of whole extended entries at word @word_index of the slice.
 * @is_bitmap_first: readers see the bitmap change first (the old word ignores it).
 * Threads: one writer for each entry. */
static inline void
qcow2_l2_set_extended(TableSlice *slice, uint64_t word_index, const uint64_t *words,
                      uint64_t n_words, bool is_bitmap_first)
{
    for (unsigned step = 0; step < 2; step++) {
        table_slice_begin_step(slice);
        for (uint64_t i = is_bitmap_first != (step == 1); i < n_words; i += 2)
            table_slice_set(slice, word_index + i, words[i]);
    }
}
