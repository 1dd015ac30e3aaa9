/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Structures that callers make: both sides know their own size of them, and what one side
 * does not know is zeros. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Takes a caller's structure, whose struct_bytes come first, into ours of @own_bytes;
 * false where the caller has not set them. */
static inline bool
qimg_struct_take(void *own, size_t own_bytes, const void *given)
{
    size_t given_bytes;

    memcpy(&given_bytes, given, sizeof given_bytes);
    if (given_bytes < sizeof given_bytes)
        return false;
    memset(own, 0, own_bytes);
    memcpy(own, given, given_bytes < own_bytes ? given_bytes : own_bytes);
    return true;
}

/* Fills a caller's structure with ours, but for struct_bytes, which stay; false where the
 * caller has not set them. */
static inline bool
qimg_struct_give(void *given, const void *own, size_t own_bytes)
{
    size_t given_bytes, n_bytes;

    memcpy(&given_bytes, given, sizeof given_bytes);
    if (given_bytes < sizeof given_bytes)
        return false;
    n_bytes = given_bytes < own_bytes ? given_bytes : own_bytes;
    memcpy((char *)given + sizeof given_bytes, (const char *)own + sizeof given_bytes,
           n_bytes - sizeof given_bytes);
    memset((char *)given + n_bytes, 0, given_bytes - n_bytes);
    return true;
}
