/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk inside a layer: the active one or a snapshot. */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

typedef struct {
    /* Atomic in the active view of a writable layer, where it is read without the gate,
     * grows inside it, and shrinks while it is closed; else const. */
    _Atomic uint64_t size_bytes;
    QimgHostOffset l1_table_offset;
    uint32_t n_l1_entries;
    uint32_t n_l1_entries_in_file; /* those before the end of the file */
} QimgView;

/* Any thread. */
static inline uint64_t
qimg_view_size_bytes(const QimgView *view)
{
    /* Pairs with the release below: the file is as long as the size tells. */
    return atomic_load_explicit(&view->size_bytes, memory_order_acquire);
}

/* Publishes a size that the file has already. See QimgDriver.grow and .resize. */
static inline void
qimg_view_set_size_bytes(QimgView *view, uint64_t size_bytes)
{
    atomic_store_explicit(&view->size_bytes, size_bytes, memory_order_release);
}
