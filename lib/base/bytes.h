/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes beside bytes. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The place of the first byte in which @a and @b differ; @n_bytes: they are the same. */
static inline size_t
qimg_find_different(const uint8_t *a, const uint8_t *b, size_t n_bytes)
{
    size_t at = 0;

    if (memcmp(a, b, n_bytes) == 0)
        return n_bytes;
    while (a[at] == b[at])
        at++;
    return at;
}
