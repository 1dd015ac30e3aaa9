/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header of LUKS version 1. Spec: encryption section 3.1. */
#pragma once

#include "codec/rules.h"

#define LUKS_HEADER_BYTES      592u
#define LUKS_NAME_BYTES        32u
#define LUKS_SALT_BYTES        32u
#define LUKS_DIGEST_BYTES      20u
#define LUKS_UUID_BYTES        40u
#define LUKS_N_SLOTS           8u
#define LUKS_STRIPES           4000u
#define LUKS_SLOTS_AT          208u
#define LUKS_SLOT_BYTES        48u
#define LUKS_SLOT_MARKER_BYTES 4u
#define LUKS_MAX_KEY_BYTES     64u
#define LUKS_MAX_AREA_BYTES    (UINT64_C(64) << 20)

typedef struct {
    bool is_active;
    uint32_t iterations; /* > 0 if active */
    uint8_t salt[LUKS_SALT_BYTES];
    uint64_t material_offset; /* bytes from the start of the header */
} LuksSlot;

typedef struct {
    char cipher[LUKS_NAME_BYTES]; /* ends with a NUL, as the next two */
    char mode[LUKS_NAME_BYTES];
    char hash[LUKS_NAME_BYTES];
    uint64_t payload_offset; /* bytes from the start of the header */
    uint32_t key_bytes;      /* 1 to LUKS_MAX_KEY_BYTES */
    uint8_t digest[LUKS_DIGEST_BYTES];
    uint8_t digest_salt[LUKS_SALT_BYTES];
    uint32_t digest_iterations; /* > 0 */
    char uuid[LUKS_UUID_BYTES + 1];
    LuksSlot slots[LUKS_N_SLOTS];
} LuksHeader;

/* Bytes of the key material of a slot, rounded up to sectors. */
static inline uint64_t
luks_material_bytes(const LuksHeader *header)
{
    uint64_t bytes = (uint64_t)header->key_bytes * LUKS_STRIPES;

    return (bytes + QIMG_SECTOR_BYTES - 1) / QIMG_SECTOR_BYTES * QIMG_SECTOR_BYTES;
}

/* Decodes and checks the header in the first @n_bytes of an area of @area_bytes for
 * header and key material; all slots are checked, also unused ones. Whether cipher, mode,
 * hash and key_bytes go together is for crypt/cipher.h. *@out is set on success only. */
QimgDecode luks_header_decode(const uint8_t *bytes, size_t n_bytes, uint64_t area_bytes,
                              LuksHeader *out);

/* Encodes @header, the mirror of luks_header_decode. */
void luks_header_encode(const LuksHeader *header, uint8_t bytes[LUKS_HEADER_BYTES]);

/* Encodes the key slot @index of @header as its LUKS_SLOT_BYTES bytes at
 * luks_slot_offset. */
void luks_slot_encode(const LuksHeader *header, unsigned index,
                      uint8_t bytes[LUKS_SLOT_BYTES]);

/* Where a key slot lies, in bytes from the start of the header. Its first
 * LUKS_SLOT_MARKER_BYTES, which tell whether it is active, never cross a sector. */
static inline uint64_t
luks_slot_offset(unsigned index)
{
    return LUKS_SLOTS_AT + (uint64_t)index * LUKS_SLOT_BYTES;
}

/* Sets the places of the key material of all slots and of the payload as QEMU does, by
 * header->key_bytes. */
void luks_header_lay_out(LuksHeader *header);
