/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the layers of a chain say, asked one after the other. */
#pragma once

#include "image/chain/chain.h"

/* A run and the layer that it belongs to. */
typedef struct {
    QimgRun run;
    unsigned layer_index;
} ImageRun;

/* The run at @guest_offset of the layers from @layer_index down, by asking each in turn:
 * the first that has an entry decides. It is cut to the layers' sizes; @length_bytes > 0
 * is how much can be used. Threads: any; no lock; waits for I/O on misses. */
QimgErrno layers_map_run(QimgChain *chain, unsigned layer_index, uint64_t guest_offset,
                         uint64_t length_bytes, ImageRun *out) QIMG_MUST_CHECK;
