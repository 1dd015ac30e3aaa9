/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Open addressing with linear probing. A full table is replaced by one of twice the size,
 * but kept until the set is freed, since a reader may still be in it. All old tables
 * together are smaller than the last one. */
#include "base/index-set.h"

#include <glib.h>
#include <stdatomic.h>

#define EMPTY     UINT64_MAX
#define REMOVED   (UINT64_MAX - 1)
#define MIN_SLOTS 64u

typedef struct Table {
    struct Table *older;
    uint64_t n_slots; /* a power of two */
    _Atomic uint64_t slots[];
} Table;

struct QimgIndexSet {
    _Atomic(Table *) table; /* atomic: replaced by the writer */
    uint64_t n_used;        /* owned by the writer: including REMOVED ones */
    uint64_t n_indices;     /* owned by the writer */
};

static Table *
table_new(uint64_t n_slots)
{
    Table *table = g_try_malloc(sizeof *table + n_slots * sizeof table->slots[0]);

    if (!table)
        return NULL;
    table->older = NULL;
    table->n_slots = n_slots;
    for (uint64_t i = 0; i < n_slots; i++)
        atomic_init(&table->slots[i], EMPTY);
    return table;
}

QimgIndexSet *
qimg_index_set_new(void)
{
    QimgIndexSet *set = g_new0(QimgIndexSet, 1);
    Table *table = table_new(MIN_SLOTS);

    if (!table)
        g_error("no memory for a set");
    atomic_init(&set->table, table);
    return set;
}

void
qimg_index_set_free(QimgIndexSet *set)
{
    if (!set)
        return;
    for (Table *table = atomic_load(&set->table), *older; table; table = older) {
        older = table->older;
        g_free(table);
    }
    g_free(set);
}

static uint64_t
hash(uint64_t index)
{
    index *= UINT64_C(0x9e3779b97f4a7c15);
    return index ^ (index >> 32);
}

/* The slot that holds @index, or else the empty slot that ends the search. */
static _Atomic uint64_t *
find_slot(Table *table, uint64_t index)
{
    uint64_t i = hash(index) & (table->n_slots - 1);

    for (;; i = (i + 1) & (table->n_slots - 1)) {
        /* Acquire pairs with the release in qimg_index_set_add. */
        uint64_t found = atomic_load_explicit(&table->slots[i], memory_order_acquire);

        if (found == index || found == EMPTY)
            return &table->slots[i];
    }
}

bool
qimg_index_set_has(const QimgIndexSet *set, uint64_t index)
{
    Table *table = atomic_load_explicit(&set->table, memory_order_acquire);

    return atomic_load_explicit(find_slot(table, index), memory_order_relaxed) == index;
}

static bool
set_grow(QimgIndexSet *set)
{
    Table *old = atomic_load_explicit(&set->table, memory_order_relaxed);
    Table *table =
        table_new(set->n_indices * 4 > old->n_slots ? old->n_slots * 2 : old->n_slots);

    if (!table)
        return false;
    for (uint64_t i = 0; i < old->n_slots; i++) {
        uint64_t index = atomic_load_explicit(&old->slots[i], memory_order_relaxed);

        if (index < REMOVED)
            atomic_store_explicit(find_slot(table, index), index, memory_order_relaxed);
    }
    table->older = old;
    set->n_used = set->n_indices;
    atomic_store_explicit(&set->table, table, memory_order_release);
    return true;
}

/* Stores @index, which is absent, in the slot of a removed one. */
static bool
reuse_removed(Table *table, uint64_t index)
{
    uint64_t i = hash(index) & (table->n_slots - 1);

    for (;; i = (i + 1) & (table->n_slots - 1)) {
        uint64_t found = atomic_load_explicit(&table->slots[i], memory_order_relaxed);

        if (found == EMPTY)
            return false;
        if (found == REMOVED) {
            atomic_store_explicit(&table->slots[i], index, memory_order_release);
            return true;
        }
    }
}

bool
qimg_index_set_add(QimgIndexSet *set, uint64_t index)
{
    Table *table = atomic_load_explicit(&set->table, memory_order_relaxed);
    _Atomic uint64_t *slot = find_slot(table, index);

    if (atomic_load_explicit(slot, memory_order_relaxed) == index)
        return true;
    if ((set->n_used + 1) * 2 > table->n_slots) {
        if (!set_grow(set))
            return false;
        table = atomic_load_explicit(&set->table, memory_order_relaxed);
        slot = find_slot(table, index);
    }
    if (!reuse_removed(table, index)) {
        atomic_store_explicit(slot, index, memory_order_release);
        set->n_used++;
    }
    set->n_indices++;
    return true;
}

void
qimg_index_set_remove(QimgIndexSet *set, uint64_t index)
{
    Table *table = atomic_load_explicit(&set->table, memory_order_relaxed);
    _Atomic uint64_t *slot = find_slot(table, index);

    if (atomic_load_explicit(slot, memory_order_relaxed) != index)
        return;
    atomic_store_explicit(slot, REMOVED, memory_order_release);
    set->n_indices--;
}

uint64_t
qimg_index_set_count(const QimgIndexSet *set)
{
    return set->n_indices;
}
