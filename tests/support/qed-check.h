/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a QED file is sound: an own walk over its tables, that shares no code with the
 * library. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t n_leaks; /* whole clusters that nothing refers to */
    bool is_dirty;    /* NEED_CHECK is set */
} QedCheckResult;

/* Whether the file begins as a QED image does. */
bool qed_check_is_qed(const uint8_t *bytes, size_t n_bytes);

/* NULL when each entry is a place of its own in the file of @n_bytes, else what is wrong
 * (free with g_free). A leak without NEED_CHECK is wrong, too, unless @may_leak. */
char *qed_check_bytes(const uint8_t *bytes, size_t n_bytes, bool may_leak,
                      QedCheckResult *out);
