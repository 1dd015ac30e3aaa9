/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arithmetic on numbers from an image or a caller: functions that can overflow report it,
 * and their result must be checked. */
#pragma once

#include "base/types.h"

/* Sum, product: false when the result does not fit; *@out is written on success only. */
static inline bool QIMG_MUST_CHECK
qimg_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

static inline bool QIMG_MUST_CHECK
qimg_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t product;

    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

/* Whether [@offset, @offset + @length) lies within [0, @limit). */
static inline bool QIMG_MUST_CHECK
qimg_range_fits(uint64_t offset, uint64_t length, uint64_t limit)
{
    return offset <= limit && length <= limit - offset;
}

/* In the three functions below, @alignment is a power of two. */
static inline bool QIMG_MUST_CHECK
qimg_is_aligned(uint64_t value, uint64_t alignment)
{
    return (value & (alignment - 1)) == 0;
}

static inline uint64_t
qimg_align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

static inline bool QIMG_MUST_CHECK
qimg_align_up(uint64_t value, uint64_t alignment, uint64_t *out)
{
    uint64_t sum;

    if (!qimg_add_u64(value, alignment - 1, &sum))
        return false;
    *out = qimg_align_down(sum, alignment);
    return true;
}

/* Rounds the quotient up; cannot overflow. @divisor > 0. */
static inline uint64_t
qimg_div_round_up(uint64_t value, uint64_t divisor)
{
    return value / divisor + (value % divisor != 0);
}

static inline uint64_t
qimg_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t
qimg_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
