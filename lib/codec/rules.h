/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names for the rules of the formats that an image can break, and the result type of all
 * decoders. */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

typedef enum {
    QIMG_RULE_OK = 0,
#define X(name, field, text) QIMG_RULE_##name,
#include "codec/rules.def"
#undef X
    QIMG_N_RULES,
} QimgRule;

/* What a decoder answers: QIMG_RULE_OK, or the rule that was broken and the number that
 * breaks it. */
typedef struct {
    QimgRule rule;
    uint64_t value;
} QimgDecode;

/* The field that @rule is about, and what must hold for it; static texts. */
const char *qimg_rule_field(QimgRule rule);
const char *qimg_rule_text(QimgRule rule);

/* Rules that were met, for who tells of each once. All zeros: none. */
typedef struct {
    _Atomic uint64_t words[(QIMG_N_RULES + 63) / 64]; /* atomic, relaxed: a bit each */
} QimgRuleSet;

/* Adds @rule; whether it was not there before. Threads: any. */
static inline bool
qimg_rule_set_add(QimgRuleSet *set, QimgRule rule)
{
    uint64_t bit = UINT64_C(1) << (rule % 64);

    return (atomic_fetch_or_explicit(&set->words[rule / 64], bit, memory_order_relaxed) &
            bit) == 0;
}

static inline QimgDecode
qimg_decode_ok(void)
{
    return (QimgDecode){.rule = QIMG_RULE_OK};
}

static inline QimgDecode
qimg_decode_broken(QimgRule rule, uint64_t value)
{
    return (QimgDecode){.rule = rule, .value = value};
}
