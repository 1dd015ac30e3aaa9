/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Refcount entries: encoded values are decoded again, and their neighbours stay. Input:
 * order, eight bytes of the value, two of the index, then the block. */
#include <stdlib.h>
#include <string.h>

#include "codec/qcow2-refcounts.h"
#include "fuzz.h"

#define HEAD_BYTES 11u

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    qimg_be64 value_be;
    qimg_be16 index_be;
    uint32_t order;
    uint64_t value, index, n;
    uint8_t *block;

    if (n_bytes < HEAD_BYTES + 8)
        return 0;
    order = bytes[0] % (QCOW2_MAX_REFCOUNT_ORDER + 1);
    memcpy(&value_be, bytes + 1, sizeof value_be);
    memcpy(&index_be, bytes + 9, sizeof index_be);
    bytes += HEAD_BYTES;
    n_bytes -= HEAD_BYTES;
    n_bytes -= n_bytes % 8;
    n = n_bytes * 8 >> order;
    value = qimg_be64_get(value_be) & qcow2_refcount_max(order);
    index = qimg_be16_get(index_be) % n;
    block = malloc(n_bytes); /* exact size: a sanitizer sees a step outside */
    if (!block)
        return 0;
    memcpy(block, bytes, n_bytes);

    qcow2_refcount_encode(block, order, index, value);
    FUZZ_CHECK(qcow2_refcount_decode(block, order, index) == value);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t old = qcow2_refcount_decode(bytes, order, i);

        FUZZ_CHECK(old <= qcow2_refcount_max(order));
        FUZZ_CHECK(i == index || qcow2_refcount_decode(block, order, i) == old);
    }
    qcow2_refcount_encode(block, order, index,
                          qcow2_refcount_decode(bytes, order, index));
    FUZZ_CHECK(memcmp(block, bytes, n_bytes) == 0);
    free(block);
    return 0;
}
