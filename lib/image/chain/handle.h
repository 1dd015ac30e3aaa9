/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A handle on an open chain: the disk, a layer further down, a snapshot, a VM state, or a
 * part of one of them. */
#pragma once

#include "image/chain/chain.h"

struct QimgImage {
    QimgChain *chain;     /* a reference */
    unsigned first_layer; /* const */
    /* const: of the first layer; the active one changes while the gate is closed */
    const QimgView *view;
    QimgView own_view; /* const: what @view points to, where it is not the active one */
    /* const: what the handle shows, unless is_disk; of a part, at most */
    uint64_t size_bytes;
    bool is_disk;     /* const: the disk that layer 0 shows, or a part of it */
    QimgImage *whole; /* const: of a part of that disk, which is what changes; else NULL.
                         Owned */
    uint64_t base_bytes; /* const: where that begins in the view */
    bool has_backing;    /* const: unallocated parts come from the next layer */
    bool is_snapshot;    /* const: lists no snapshots of its own */
    /* Of the snapshot that this handle keeps from being deleted (see QimgFormatSnapshot);
     * NULL: none */
    atomic_uint *n_snapshot_handles;
    /* Atomic, relaxed: a hint, where a sequential reader is (image/read/read-ahead.c) */
    _Atomic uint64_t next_sequential_offset;
};

/* The size of what @image shows. Any thread; inside the gate it grows at most. */
static inline uint64_t
image_size_bytes(const QimgImage *image)
{
    uint64_t disk_bytes, left;

    if (!image->is_disk)
        return image->size_bytes;
    disk_bytes = qimg_view_size_bytes(image->view);
    if (!image->whole)
        return disk_bytes;
    left = disk_bytes > image->base_bytes ? disk_bytes - image->base_bytes : 0;
    return left < image->size_bytes ? left : image->size_bytes;
}

/* What changes when @image, which is_disk, is changed at *@guest_offset: the whole disk,
 * and where in it. */
static inline QimgImage *
image_to_change(QimgImage *image, uint64_t *guest_offset)
{
    if (!image->whole)
        return image;
    *guest_offset += image->base_bytes; /* within the disk, as the caller has checked */
    return image->whole;
}
