/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bits in file order: bit 0 of a byte comes first. Inline and pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The first bit in [@first, @end) of @bytes that is not @value; @end: none. */
static inline uint64_t
qcow2_bits_find_other(const uint8_t *bytes, uint64_t first, uint64_t end, bool value)
{
    uint8_t same = value ? 0xff : 0;
    uint64_t same_word = value ? UINT64_MAX : 0;
    uint64_t n = first;

    while (n < end) {
        if (n % 8 == 0) {
            uint64_t word;

            while (end - n >= 64) {
                memcpy(&word, bytes + n / 8, sizeof word); /* in any byte order */
                if (word != same_word)
                    break;
                n += 64;
            }
            while (end - n >= 8 && bytes[n / 8] == same)
                n += 8;
            if (n == end)
                break;
        }
        if ((bytes[n / 8] >> n % 8 & 1) != value)
            return n;
        n++;
    }
    return end;
}

/* Sets the bits [@first, @end) of @bytes. */
static inline void
qcow2_bits_set(uint8_t *bytes, uint64_t first, uint64_t end)
{
    for (; first < end && first % 8 != 0; first++)
        bytes[first / 8] |= (uint8_t)(1u << first % 8);
    if (end - first >= 8) {
        memset(bytes + first / 8, 0xff, (end - first) / 8);
        first = end - end % 8;
    }
    for (; first < end; first++)
        bytes[first / 8] |= (uint8_t)(1u << first % 8);
}
