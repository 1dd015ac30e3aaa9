/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decodes and encodes the LUKS header. Spec: encryption sections 3.1 and 3.5. */
#include "codec/luks-header.h"

#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

#define VERSION         1u
#define SLOT_ACTIVE     UINT32_C(0x00ac71f3)
#define SLOT_INACTIVE   UINT32_C(0x0000dead)
#define MIN_MATERIAL_AT (2u * QIMG_SECTOR_BYTES) /* behind the header */
#define ALIGN_BYTES     UINT64_C(4096)           /* of key material in a new header */

static const uint8_t magic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};

/* Spec: encryption section 3.1. */
typedef struct {
    qimg_be32 marker;
    qimg_be32 iterations;
    uint8_t salt[LUKS_SALT_BYTES];
    qimg_be32 material_sector;
    qimg_be32 stripes;
} DiskSlot;

typedef struct {
    uint8_t magic[6];
    qimg_be16 version;
    char cipher[LUKS_NAME_BYTES];
    char mode[LUKS_NAME_BYTES];
    char hash[LUKS_NAME_BYTES];
    qimg_be32 payload_sector;
    qimg_be32 key_bytes;
    uint8_t digest[LUKS_DIGEST_BYTES];
    uint8_t digest_salt[LUKS_SALT_BYTES];
    qimg_be32 digest_iterations;
    char uuid[LUKS_UUID_BYTES];
    DiskSlot slots[LUKS_N_SLOTS];
} DiskHeader;

_Static_assert(sizeof(DiskHeader) == LUKS_HEADER_BYTES, "the header as in the file");
_Static_assert(offsetof(DiskHeader, slots) == LUKS_SLOTS_AT, "slots");
_Static_assert(sizeof(DiskSlot) == LUKS_SLOT_BYTES, "a slot as in the file");

/* Whether the two fields of key material have bytes in common. */
static bool
overlaps(uint64_t a, uint64_t b, uint64_t length_bytes)
{
    return a < b + length_bytes && b < a + length_bytes;
}

static QimgDecode
decode_slot(const DiskSlot *disk, LuksHeader *h, unsigned i, uint64_t end)
{
    uint32_t marker = qimg_be32_get(disk->marker);
    uint32_t stripes = qimg_be32_get(disk->stripes);
    uint32_t sector = qimg_be32_get(disk->material_sector);
    LuksSlot *slot = &h->slots[i];

    if (marker != SLOT_ACTIVE && marker != SLOT_INACTIVE)
        return qimg_decode_broken(QIMG_RULE_LUKS_SLOT_MARKER, marker);
    if (stripes != LUKS_STRIPES)
        return qimg_decode_broken(QIMG_RULE_LUKS_STRIPES, stripes);
    *slot = (LuksSlot){.is_active = marker == SLOT_ACTIVE,
                       .iterations = qimg_be32_get(disk->iterations),
                       .material_offset = (uint64_t)sector * QIMG_SECTOR_BYTES};
    memcpy(slot->salt, disk->salt, sizeof slot->salt);
    if (slot->is_active && slot->iterations == 0)
        return qimg_decode_broken(QIMG_RULE_LUKS_ITERATIONS, 0);
    if (slot->material_offset < MIN_MATERIAL_AT ||
        !qimg_range_fits(slot->material_offset, luks_material_bytes(h), end))
        return qimg_decode_broken(QIMG_RULE_LUKS_MATERIAL, sector);
    for (unsigned j = 0; j < i; j++)
        if (overlaps(h->slots[j].material_offset, slot->material_offset,
                     luks_material_bytes(h)))
            return qimg_decode_broken(QIMG_RULE_LUKS_MATERIAL, sector);
    return qimg_decode_ok();
}

QimgDecode
luks_header_decode(const uint8_t *bytes, size_t n_bytes, uint64_t area_bytes,
                   LuksHeader *out)
{
    DiskHeader disk;
    LuksHeader h = {0};

    if (n_bytes < sizeof disk || area_bytes < sizeof disk)
        return qimg_decode_broken(QIMG_RULE_LUKS_SHORT,
                                  qimg_min_u64(n_bytes, area_bytes));
    memcpy(&disk, bytes, sizeof disk);
    if (memcmp(disk.magic, magic, sizeof magic) != 0)
        return qimg_decode_broken(QIMG_RULE_LUKS_MAGIC, disk.magic[0]);
    if (qimg_be16_get(disk.version) != VERSION)
        return qimg_decode_broken(QIMG_RULE_LUKS_VERSION, qimg_be16_get(disk.version));
    if (!memchr(disk.cipher, 0, LUKS_NAME_BYTES) ||
        !memchr(disk.mode, 0, LUKS_NAME_BYTES) || !memchr(disk.hash, 0, LUKS_NAME_BYTES))
        return qimg_decode_broken(QIMG_RULE_LUKS_NAME, LUKS_NAME_BYTES);
    memcpy(h.cipher, disk.cipher, LUKS_NAME_BYTES);
    memcpy(h.mode, disk.mode, LUKS_NAME_BYTES);
    memcpy(h.hash, disk.hash, LUKS_NAME_BYTES);
    memcpy(h.uuid, disk.uuid, LUKS_UUID_BYTES);
    memcpy(h.digest, disk.digest, LUKS_DIGEST_BYTES);
    memcpy(h.digest_salt, disk.digest_salt, LUKS_SALT_BYTES);
    h.digest_iterations = qimg_be32_get(disk.digest_iterations);
    h.key_bytes = qimg_be32_get(disk.key_bytes);
    h.payload_offset = (uint64_t)qimg_be32_get(disk.payload_sector) * QIMG_SECTOR_BYTES;
    if (h.key_bytes == 0 || h.key_bytes > LUKS_MAX_KEY_BYTES)
        return qimg_decode_broken(QIMG_RULE_LUKS_KEY_BYTES, h.key_bytes);
    if (h.digest_iterations == 0)
        return qimg_decode_broken(QIMG_RULE_LUKS_ITERATIONS, 0);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        QimgDecode decoded = decode_slot(&disk.slots[i], &h, i,
                                         qimg_min_u64(h.payload_offset, area_bytes));

        if (decoded.rule)
            return decoded;
    }
    *out = h;
    return qimg_decode_ok();
}

static DiskSlot
encode_slot(const LuksSlot *slot)
{
    uint64_t sector = slot->material_offset / QIMG_SECTOR_BYTES;
    DiskSlot disk = {
        .marker = qimg_be32_set(slot->is_active ? SLOT_ACTIVE : SLOT_INACTIVE),
        .iterations = qimg_be32_set(slot->iterations),
        .material_sector = qimg_be32_set((uint32_t)sector),
        .stripes = qimg_be32_set(LUKS_STRIPES),
    };

    memcpy(disk.salt, slot->salt, sizeof disk.salt);
    return disk;
}

void
luks_slot_encode(const LuksHeader *header, unsigned index, uint8_t bytes[LUKS_SLOT_BYTES])
{
    DiskSlot disk = encode_slot(&header->slots[index]);

    memcpy(bytes, &disk, sizeof disk);
}

void
luks_header_encode(const LuksHeader *header, uint8_t bytes[LUKS_HEADER_BYTES])
{
    uint64_t payload_sector = header->payload_offset / QIMG_SECTOR_BYTES;
    DiskHeader disk = {
        .version = qimg_be16_set(VERSION),
        .payload_sector = qimg_be32_set((uint32_t)payload_sector),
        .key_bytes = qimg_be32_set(header->key_bytes),
        .digest_iterations = qimg_be32_set(header->digest_iterations),
    };

    memcpy(disk.magic, magic, sizeof magic);
    memcpy(disk.cipher, header->cipher, LUKS_NAME_BYTES);
    memcpy(disk.mode, header->mode, LUKS_NAME_BYTES);
    memcpy(disk.hash, header->hash, LUKS_NAME_BYTES);
    memcpy(disk.digest, header->digest, LUKS_DIGEST_BYTES);
    memcpy(disk.digest_salt, header->digest_salt, LUKS_SALT_BYTES);
    memcpy(disk.uuid, header->uuid, LUKS_UUID_BYTES);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        disk.slots[i] = encode_slot(&header->slots[i]);
    memcpy(bytes, &disk, sizeof disk);
}

void
luks_header_lay_out(LuksHeader *header)
{
    uint64_t offset = ALIGN_BYTES;

    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        header->slots[i].material_offset = offset;
        offset +=
            qimg_div_round_up(luks_material_bytes(header), ALIGN_BYTES) * ALIGN_BYTES;
    }
    header->payload_offset = offset;
}
