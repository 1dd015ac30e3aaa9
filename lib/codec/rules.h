/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of the rules that an image can break, and the result type of all decoders. */
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

/* The result of a decoder: QIMG_RULE_OK, or the broken rule and the number that breaks
 * it. */
typedef struct {
    QimgRule rule;
    uint64_t value;
} QimgDecode;

/* The field of @rule, and its requirement; static texts. */
const char *qimg_rule_field(QimgRule rule);
const char *qimg_rule_text(QimgRule rule);

/* A set of rules, for reporting each once. All zeros: empty. */
typedef struct {
    _Atomic uint64_t
        words[(QIMG_N_RULES + 63) / 64]; /* atomic, relaxed: a bit per rule */
} QimgRuleSet;

/* Adds @rule; whether it was not in the set before. Threads: any. */
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
