/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tree/text-sizes.h"

#include <glib.h>

#include "base/lock.h"

#define N_SLOTS 256u

typedef struct {
    TextKey key; /* opening 0: empty */
    uint64_t n_bytes;
} Measured;

struct TextSizes {
    QimgMutex lock;
    Measured slots[N_SLOTS]; /* guarded by lock */
};

TextSizes *
text_sizes_new(void)
{
    TextSizes *sizes = g_new0(TextSizes, 1);

    qimg_mutex_init(&sizes->lock, QIMG_RANK_MEASURED);
    return sizes;
}

void
text_sizes_free(TextSizes *sizes)
{
    qimg_mutex_clear(&sizes->lock);
    g_free(sizes);
}

static Measured *
size_slot_of(TextSizes *sizes, const TextKey *key)
{
    return &sizes->slots[key->inode * UINT64_C(0x9e3779b97f4a7c15) >> 56];
}

_Static_assert(N_SLOTS == 1u << (64 - 56), "slot_of takes the highest bits");

bool
text_sizes_find(TextSizes *sizes, const TextKey *key, uint64_t *n_bytes_out)
{
    const Measured *slot = size_slot_of(sizes, key);

    QIMG_LOCK_SCOPE(&sizes->lock);
    if (slot->key.inode != key->inode || slot->key.opening != key->opening ||
        slot->key.n_changes != key->n_changes || slot->key.n_blocks != key->n_blocks ||
        slot->key.version != key->version)
        return false;
    *n_bytes_out = slot->n_bytes;
    return true;
}

void
text_sizes_add(TextSizes *sizes, const TextKey *key, uint64_t n_bytes)
{
    Measured *slot = size_slot_of(sizes, key);

    QIMG_LOCK_SCOPE(&sizes->lock);
    *slot = (Measured){.key = *key, .n_bytes = n_bytes};
}
