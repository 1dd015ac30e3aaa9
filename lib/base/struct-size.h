/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Structures made by callers: each side knows its own size of them, and fields unknown to
 * one side are zeros. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Copies a caller's structure, which begins with struct_bytes, to ours of @own_bytes;
 * false if the caller has not set struct_bytes. */
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

/* Copies our structure to the caller's, except struct_bytes; false if the caller has not
 * set struct_bytes. */
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
