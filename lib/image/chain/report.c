/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damage found while reading: counted each time, logged once for each rule and chain. */
#define G_LOG_DOMAIN "qimg"

#include <inttypes.h>

#include "image/chain/report.h"

void
report_damage(QimgChain *chain, unsigned layer_index, QimgRule rule,
              uint64_t guest_offset)
{
    chain_count(chain, COUNTER_ERRORS, 1);
    if (!qimg_rule_set_add(&chain->reported_rules, rule))
        return;
    g_warning("%s: %s: %s (guest offset %" PRIu64
              " reads as an I/O error; further places "
              "of this kind are not logged)",
              chain->layers[layer_index]->file->path, qimg_rule_field(rule),
              qimg_rule_text(rule), guest_offset);
}
