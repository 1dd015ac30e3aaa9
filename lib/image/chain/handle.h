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
    QimgView own_view; /* const: target of @view, unless that is the active one */
    /* const: size of the handle's content, unless is_disk; of a part: its maximum */
    uint64_t size_bytes;
    bool is_disk;     /* const: layer 0's disk, or a part of it */
    QimgImage *whole; /* const, owned: of a part of that disk, the handle that changes go
                         to; else NULL */
    uint64_t base_bytes; /* const: where the content begins in the view */
    bool has_backing;    /* const: unallocated parts come from the next layer */
    bool is_snapshot;    /* const: lists no snapshots of its own */
    /* Of the snapshot whose deletion this handle prevents (see QimgFormatSnapshot); NULL:
     * none */
    atomic_uint *n_snapshot_handles;
    /* Atomic, relaxed: a hint, the position of a sequential reader
     * (image/read/read-ahead.c) */
    _Atomic uint64_t next_sequential_offset;
};

/* The size of @image's content. Any thread; inside the gate it only grows. */
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

/* The image that a change of @image, which is_disk, at *@guest_offset applies to: the
 * whole disk; makes the offset relative to it. */
static inline QimgImage *
image_to_change(QimgImage *image, uint64_t *guest_offset)
{
    if (!image->whole)
        return image;
    *guest_offset += image->base_bytes; /* within the disk, as the caller has checked */
    return image->whole;
}
