/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a QED file is sound: a separate walk over its tables that shares no code with
 * the library. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t n_leaks; /* whole clusters without a reference */
    bool is_dirty;    /* NEED_CHECK is set */
} QedCheckResult;

/* Whether the file begins like a QED image. */
bool qed_check_is_qed(const uint8_t *bytes, size_t n_bytes);

/* NULL if each entry is a distinct place in the file of @n_bytes, else the fault (free
 * with g_free). A leak without NEED_CHECK is a fault, too, unless @may_leak. */
char *qed_check_bytes(const uint8_t *bytes, size_t n_bytes, bool may_leak,
                      QedCheckResult *out);
