/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/map/layers.h"

/* Like layers_map_run, from the cache of resolved runs. Only if the chain has a
 * granule. */
QimgErrno resolve_run(QimgChain *chain, unsigned layer_index, uint64_t guest_offset,
                      uint64_t length_bytes, ImageRun *out) QIMG_MUST_CHECK;

/* Guest bytes that one slice of resolved runs covers. */
uint64_t resolve_region_bytes(const QimgChain *chain);
