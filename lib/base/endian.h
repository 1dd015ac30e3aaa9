/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Integers as they lie in a file: byte arrays of alignment 1 with accessors. This is the
 * only place that swaps bytes or casts between bytes and integers. */
#pragma once

#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t b[2];
} qimg_be16;
typedef struct {
    uint8_t b[4];
} qimg_be32;
typedef struct {
    uint8_t b[8];
} qimg_be64;

typedef struct {
    uint8_t b[2];
} qimg_le16;
typedef struct {
    uint8_t b[4];
} qimg_le32;
typedef struct {
    uint8_t b[8];
} qimg_le64;

_Static_assert(_Alignof(qimg_be64) == 1, "on-disk integers have no alignment");

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

static inline uint16_t
qimg_be16_get(qimg_be16 value)
{
    uint16_t raw;

    memcpy(&raw, value.b, sizeof raw);
    return QIMG_SWAP_BE16(raw);
}

static inline qimg_be16
qimg_be16_set(uint16_t value)
{
    uint16_t raw = QIMG_SWAP_BE16(value);
    qimg_be16 result;

    memcpy(result.b, &raw, sizeof raw);
    return result;
}

static inline uint32_t
qimg_be32_get(qimg_be32 value)
{
    uint32_t raw;

    memcpy(&raw, value.b, sizeof raw);
    return QIMG_SWAP_BE32(raw);
}

static inline qimg_be32
qimg_be32_set(uint32_t value)
{
    uint32_t raw = QIMG_SWAP_BE32(value);
    qimg_be32 result;

    memcpy(result.b, &raw, sizeof raw);
    return result;
}

static inline uint64_t
qimg_be64_get(qimg_be64 value)
{
    uint64_t raw;

    memcpy(&raw, value.b, sizeof raw);
    return QIMG_SWAP_BE64(raw);
}

static inline qimg_be64
qimg_be64_set(uint64_t value)
{
    uint64_t raw = QIMG_SWAP_BE64(value);
    qimg_be64 result;

    memcpy(result.b, &raw, sizeof raw);
    return result;
}

static inline uint16_t
qimg_le16_get(qimg_le16 value)
{
    uint16_t raw;

    memcpy(&raw, value.b, sizeof raw);
    return QIMG_SWAP_LE16(raw);
}

static inline uint32_t
qimg_le32_get(qimg_le32 value)
{
    uint32_t raw;

    memcpy(&raw, value.b, sizeof raw);
    return QIMG_SWAP_LE32(raw);
}

static inline qimg_le32
qimg_le32_set(uint32_t value)
{
    uint32_t raw = QIMG_SWAP_LE32(value);
    qimg_le32 result;

    memcpy(result.b, &raw, sizeof raw);
    return result;
}

static inline uint64_t
qimg_le64_get(qimg_le64 value)
{
    uint64_t raw;

    memcpy(&raw, value.b, sizeof raw);
    return QIMG_SWAP_LE64(raw);
}

static inline qimg_le64
qimg_le64_set(uint64_t value)
{
    uint64_t raw = QIMG_SWAP_LE64(value);
    qimg_le64 result;

    memcpy(result.b, &raw, sizeof raw);
    return result;
}

/* Turns @n_words big-endian words at @words into host-endian ones, in place. */
static inline void
qimg_be64_array_to_host(uint64_t *words, size_t n_words)
{
    for (size_t i = 0; i < n_words; i++)
        words[i] = QIMG_SWAP_BE64(words[i]);
}

/* Turns @n_words host-endian words into big-endian ones, as they lie in a file, in place.
 */
static inline void
qimg_host_to_be64_array(uint64_t *words, size_t n_words)
{
    qimg_be64_array_to_host(words, n_words); /* its own inverse */
}

/* Turns @n_words little-endian words at @words into host-endian ones, in place, or back.
 */
static inline void
qimg_le64_array_to_host(uint64_t *words, size_t n_words)
{
    for (size_t i = 0; i < n_words; i++)
        words[i] = QIMG_SWAP_LE64(words[i]);
}
