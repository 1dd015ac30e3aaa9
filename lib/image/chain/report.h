/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/chain.h"

/* Counts damage, and logs it once for each rule and chain. */
void report_damage(QimgChain *chain, unsigned layer_index, QimgRule rule,
                   uint64_t guest_offset);
