/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/chain.h"

/* The key of a compressed cluster in its layer's cache. */
uint64_t compressed_key(unsigned layer_index, QimgHostOffset host_offset);

/* A compressed cluster as a run describes it. */
typedef struct {
    QimgChain *chain;
    unsigned layer_index;
    QimgHostOffset host_offset;
    uint32_t stream_bytes;
} CompressedCluster;

/* Inflates the cluster into @bytes, which hold a whole cluster, bypassing its cache. */
QimgErrno compressed_read(const CompressedCluster *cluster, uint8_t *bytes)
    QIMG_MUST_CHECK;

/* Pins the inflated cluster, or returns why that fails. */
QimgErrno compressed_pin(const CompressedCluster *cluster, Slot **slot_out)
    QIMG_MUST_CHECK;
