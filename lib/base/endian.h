/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Integers in file order: byte arrays of alignment 1 with accessors. Only this file swaps
 * bytes or casts between bytes and integers. */
#pragma once

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define QIMG_SWAP_BE16(x) __builtin_bswap16(x)
#define QIMG_SWAP_BE32(x) __builtin_bswap32(x)
#define QIMG_SWAP_BE64(x) __builtin_bswap64(x)
#define QIMG_SWAP_LE16(x) (x)
#define QIMG_SWAP_LE32(x) (x)
#define QIMG_SWAP_LE64(x) (x)
#else
#define QIMG_SWAP_BE16(x) (x)
#define QIMG_SWAP_BE32(x) (x)
#define QIMG_SWAP_BE64(x) (x)
#define QIMG_SWAP_LE16(x) __builtin_bswap16(x)
#define QIMG_SWAP_LE32(x) __builtin_bswap32(x)
#define QIMG_SWAP_LE64(x) __builtin_bswap64(x)
#endif

/* Defines the type NAME for an integer of type HOST, and its accessors: NAME_get returns
 * the integer, NAME_set makes a NAME from one, NAME_at returns the integer at any bytes.
 */
#define QIMG_DEFINE_INTEGER(NAME, HOST, SWAP)                                            \
    typedef struct {                                                                     \
        uint8_t b[sizeof(HOST)];                                                         \
    } NAME;                                                                              \
    static inline HOST NAME##_get(NAME value)                                            \
    {                                                                                    \
        HOST raw;                                                                        \
                                                                                         \
        memcpy(&raw, value.b, sizeof raw);                                               \
        return SWAP(raw);                                                                \
    }                                                                                    \
    static inline NAME NAME##_set(HOST value)                                            \
    {                                                                                    \
        HOST raw = SWAP(value);                                                          \
        NAME result;                                                                     \
                                                                                         \
        memcpy(result.b, &raw, sizeof raw);                                              \
        return result;                                                                   \
    }                                                                                    \
    static inline HOST NAME##_at(const void *bytes)                                      \
    {                                                                                    \
        NAME value;                                                                      \
                                                                                         \
        memcpy(&value, bytes, sizeof value);                                             \
        return NAME##_get(value);                                                        \
    }                                                                                    \
    _Static_assert(_Alignof(NAME) == 1, "on-disk integers have no alignment")

QIMG_DEFINE_INTEGER(qimg_be16, uint16_t, QIMG_SWAP_BE16);
QIMG_DEFINE_INTEGER(qimg_be32, uint32_t, QIMG_SWAP_BE32);
QIMG_DEFINE_INTEGER(qimg_be64, uint64_t, QIMG_SWAP_BE64);
QIMG_DEFINE_INTEGER(qimg_le16, uint16_t, QIMG_SWAP_LE16);
QIMG_DEFINE_INTEGER(qimg_le32, uint32_t, QIMG_SWAP_LE32);
QIMG_DEFINE_INTEGER(qimg_le64, uint64_t, QIMG_SWAP_LE64);

/* Converts @n_words big-endian words at @words to host order, in place. */
static inline void
qimg_be64_array_to_host(uint64_t *words, size_t n_words)
{
    for (size_t i = 0; i < n_words; i++)
        words[i] = QIMG_SWAP_BE64(words[i]);
}

/* Converts @n_words words from host order to big-endian file order, in place. */
static inline void
qimg_host_to_be64_array(uint64_t *words, size_t n_words)
{
    qimg_be64_array_to_host(words, n_words); /* its own inverse */
}

/* Converts @n_words words between little-endian and host order, in place. */
static inline void
qimg_le64_array_to_host(uint64_t *words, size_t n_words)
{
    for (size_t i = 0; i < n_words; i++)
        words[i] = QIMG_SWAP_LE64(words[i]);
}
