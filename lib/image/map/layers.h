/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of a chain, by asking its layers in turn. */
#pragma once

#include "image/chain/chain.h"

/* A run and the layer that it belongs to. */
typedef struct {
    QimgRun run;
    unsigned layer_index;
} ImageRun;

/* The run at @guest_offset of the layers from @layer_index down: asks each in turn; the
 * first one with an entry decides. The run is cut to the layers' sizes; @length_bytes > 0
 * is the length that the caller can use. Threads: any; no lock; waits for I/O on
 * misses. */
QimgErrno layers_map_run(QimgChain *chain, unsigned layer_index, uint64_t guest_offset,
                         uint64_t length_bytes, ImageRun *out) QIMG_MUST_CHECK;
