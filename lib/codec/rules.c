/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The texts of the rules, from rules.def. */
#include "codec/rules.h"

static const struct {
    const char *field;
    const char *text;
} rules[QIMG_N_RULES] = {
    [QIMG_RULE_OK] = {"", "no rule is broken"},
#define X(name, field, text) [QIMG_RULE_##name] = {field, text},
#include "codec/rules.def"
#undef X
};

const char *
qimg_rule_field(QimgRule rule)
{
    return rules[rule].field;
}

const char *
qimg_rule_text(QimgRule rule)
{
    return rules[rule].text;
}
