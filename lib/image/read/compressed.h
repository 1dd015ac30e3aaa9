/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/chain.h"

/* The key of a compressed cluster in its layer's cache. */
uint64_t compressed_key(unsigned layer_index, QimgHostOffset host_offset);

/* A compressed cluster as a run names it. */
typedef struct {
    QimgChain *chain;
    unsigned layer_index;
    QimgHostOffset host_offset;
    uint32_t stream_bytes;
} CompressedCluster;

/* Inflates the cluster to @bytes, which hold a whole cluster, past
 * its cache. */
QimgErrno compressed_read(const CompressedCluster *cluster, uint8_t *bytes)
    QIMG_MUST_CHECK;

/* Pins the inflated cluster, or says why it cannot be had. */
QimgErrno compressed_pin(const CompressedCluster *cluster, Slot **slot_out)
    QIMG_MUST_CHECK;
