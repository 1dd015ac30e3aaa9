/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Damage found while reading: counted each time, logged once for each rule and chain. */
#define G_LOG_DOMAIN "qimg"

#include <inttypes.h>

#include "image/image.h"

_Static_assert(QIMG_N_RULES <= 64, "reported_rules has one bit for each rule");

void
report_damage(QimgChain *chain, unsigned layer_index, QimgRule rule,
              uint64_t guest_offset)
{
    uint64_t bit = UINT64_C(1) << rule;

    chain_count(chain, COUNTER_ERRORS, 1);
    if (atomic_fetch_or_explicit(&chain->reported_rules, bit, memory_order_relaxed) & bit)
        return;
    g_warning("%s: %s: %s (guest offset %" PRIu64
              " reads as an I/O error; further places "
              "of this kind are not logged)",
              chain->layers[layer_index]->file->path, qimg_rule_field(rule),
              qimg_rule_text(rule), guest_offset);
}
