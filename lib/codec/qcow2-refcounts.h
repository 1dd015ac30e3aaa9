/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The entries of a refcount block, 1 to 64 bits wide. Spec: qcow2 section 7. Inline,
 * since searches pass through here for each cluster. Pure functions; any thread. */
#pragma once

#include <string.h>

#include "base/endian.h"

#define QCOW2_MAX_REFCOUNT_ORDER 6u /* log2 of the bits of an entry */

/* The largest refcount in an entry of 2^@order bits. */
static inline uint64_t
qcow2_refcount_max(uint32_t order)
{
    return UINT64_MAX >> (64 - (1u << order));
}

/* The number of clusters counted by one refcount block. */
static inline uint64_t
qcow2_refcounts_per_block(uint32_t cluster_bits, uint32_t order)
{
    return UINT64_C(1) << (cluster_bits + 3 - order);
}

/* Entry @index of @block, whose entries have 2^@order bits. Entries of less than a byte
 * fill it from the least significant end, wider ones are big-endian. */
static inline uint64_t
qcow2_refcount_decode(const uint8_t *block, uint32_t order, uint64_t index)
{
    qimg_be16 be16;
    qimg_be32 be32;
    qimg_be64 be64;
    unsigned shift;

    switch (order) {
    case 3:
        return block[index];
    case 4:
        memcpy(&be16, block + 2 * index, sizeof be16);
        return qimg_be16_get(be16);
    case 5:
        memcpy(&be32, block + 4 * index, sizeof be32);
        return qimg_be32_get(be32);
    case 6:
        memcpy(&be64, block + 8 * index, sizeof be64);
        return qimg_be64_get(be64);
    default: /* 0 to 2 */
        shift = (unsigned)((index << order) & 7);
        return block[index >> (3 - order)] >> shift & qcow2_refcount_max(order);
    }
}

/* Sets entry @index to @value, which is at most qcow2_refcount_max(@order). */
static inline void
qcow2_refcount_encode(uint8_t *block, uint32_t order, uint64_t index, uint64_t value)
{
    qimg_be16 be16;
    qimg_be32 be32;
    qimg_be64 be64;
    unsigned shift, mask;
    uint8_t *byte;

    switch (order) {
    case 3:
        block[index] = (uint8_t)value;
        break;
    case 4:
        be16 = qimg_be16_set((uint16_t)value);
        memcpy(block + 2 * index, &be16, sizeof be16);
        break;
    case 5:
        be32 = qimg_be32_set((uint32_t)value);
        memcpy(block + 4 * index, &be32, sizeof be32);
        break;
    case 6:
        be64 = qimg_be64_set(value);
        memcpy(block + 8 * index, &be64, sizeof be64);
        break;
    default: /* 0 to 2 */
        byte = &block[index >> (3 - order)];
        shift = (unsigned)((index << order) & 7);
        mask = (unsigned)qcow2_refcount_max(order) << shift;
        *byte = (uint8_t)((*byte & ~mask) | ((unsigned)value << shift & mask));
        break;
    }
}
