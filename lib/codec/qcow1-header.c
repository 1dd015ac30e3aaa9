/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decodes the header of qcow version 1. */
#include "codec/qcow1-header.h"

#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

typedef struct {
    qimg_be32 magic; /* "QFI\xfb", as in qcow2 */
    qimg_be32 version;
    qimg_be64 backing_file_offset;
    qimg_be32 backing_file_size;
    qimg_be32 mtime;
    qimg_be64 size;
    uint8_t cluster_bits;
    uint8_t l2_bits;
    uint8_t padding[2];
    qimg_be32 crypt_method;
    qimg_be64 l1_table_offset;
} DiskHeader;

_Static_assert(sizeof(DiskHeader) == QCOW1_HEADER_BYTES, "on-disk size");

bool
qcow1_header_probe(const uint8_t *bytes, size_t n_bytes)
{
    qimg_be32 words[2];

    if (n_bytes < sizeof words)
        return false;
    memcpy(words, bytes, sizeof words);
    return qimg_be32_get(words[0]) == QCOW1_MAGIC && qimg_be32_get(words[1]) == 1;
}

/* The disk's size, and the L1 table for it. */
static QimgDecode
decode_size(uint64_t size, uint64_t l1_table_offset, Qcow1Header *h)
{
    uint64_t table_guest_bytes = UINT64_C(1) << (h->cluster_bits + h->l2_bits);
    uint64_t n_l1_entries = qimg_div_round_up(size, table_guest_bytes);

    if (size < 2)
        return qimg_decode_broken(QIMG_RULE_QCOW1_SIZE, size);
    if (n_l1_entries > QCOW1_MAX_L1_ENTRIES)
        return qimg_decode_broken(QIMG_RULE_VIRTUAL_SIZE, size);
    if (!qimg_is_aligned(l1_table_offset, 8) || l1_table_offset < QCOW1_HEADER_BYTES ||
        !qimg_range_fits(l1_table_offset, n_l1_entries * 8, INT64_MAX))
        return qimg_decode_broken(QIMG_RULE_QCOW1_L1_OFFSET, l1_table_offset);
    /* Practice (QEMU): the disk has whole sectors only. */
    h->size_bytes = qimg_align_down(size, QIMG_SECTOR_BYTES);
    h->n_l1_entries = (uint32_t)n_l1_entries;
    h->l1_table_offset = l1_table_offset;
    return qimg_decode_ok();
}

QimgDecode
qcow1_header_decode(const uint8_t *bytes, size_t n_bytes, Qcow1Header *out)
{
    DiskHeader disk = {0};
    QimgDecode result;
    Qcow1Header h;

    memcpy(&disk, bytes, qimg_min_u64(n_bytes, sizeof disk));
    if (n_bytes >= 4 && qimg_be32_get(disk.magic) != QCOW1_MAGIC)
        return qimg_decode_broken(QIMG_RULE_QCOW1_MAGIC, qimg_be32_get(disk.magic));
    if (n_bytes >= 8 && qimg_be32_get(disk.version) != 1)
        return qimg_decode_broken(QIMG_RULE_QCOW1_VERSION, qimg_be32_get(disk.version));
    if (n_bytes < sizeof disk)
        return qimg_decode_broken(QIMG_RULE_SHORT_HEADER, n_bytes);
    h = (Qcow1Header){
        .backing_name_offset = qimg_be64_get(disk.backing_file_offset),
        .backing_name_bytes = qimg_be32_get(disk.backing_file_size),
        .mtime_s = qimg_be32_get(disk.mtime),
        .cluster_bits = disk.cluster_bits,
        .l2_bits = disk.l2_bits,
        .crypt_method = qimg_be32_get(disk.crypt_method),
    };
    if (h.cluster_bits < QCOW1_MIN_CLUSTER_BITS ||
        h.cluster_bits > QCOW1_MAX_CLUSTER_BITS)
        return qimg_decode_broken(QIMG_RULE_QCOW1_CLUSTER_BITS, h.cluster_bits);
    if (h.l2_bits < QCOW1_MIN_L2_BITS || h.l2_bits > QCOW1_MAX_L2_BITS)
        return qimg_decode_broken(QIMG_RULE_QCOW1_L2_BITS, h.l2_bits);
    if (h.crypt_method > QCOW1_CRYPT_AES)
        return qimg_decode_broken(QIMG_RULE_QCOW1_CRYPT_METHOD, h.crypt_method);
    result =
        decode_size(qimg_be64_get(disk.size), qimg_be64_get(disk.l1_table_offset), &h);
    if (!result.rule)
        *out = h;
    return result;
}
