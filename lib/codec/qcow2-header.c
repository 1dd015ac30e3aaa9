/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decodes and encodes the qcow2 header and its extensions. Spec: qcow2 sections 2, 11 and
 * 12. */
#include "codec/qcow2-header.h"

#include <limits.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

/* Spec: qcow2, "Header". */
typedef struct {
    qimg_be32 magic;
    qimg_be32 version;
    qimg_be64 backing_file_offset;
    qimg_be32 backing_file_size;
    qimg_be32 cluster_bits;
    qimg_be64 size;
    qimg_be32 crypt_method;
    qimg_be32 l1_size;
    qimg_be64 l1_table_offset;
    qimg_be64 refcount_table_offset;
    qimg_be32 refcount_table_clusters;
    qimg_be32 nb_snapshots;
    qimg_be64 snapshots_offset;
    /* version 2 ends here */
    qimg_be64 incompatible_features;
    qimg_be64 compatible_features;
    qimg_be64 autoclear_features;
    qimg_be32 refcount_order;
    qimg_be32 header_length;
    uint8_t compression_type; /* only if header_length says so */
    uint8_t padding[7];
} DiskHeader;

_Static_assert(offsetof(DiskHeader, incompatible_features) == QCOW2_V2_HEADER_BYTES,
               "version 2 header");
_Static_assert(offsetof(DiskHeader, compression_type) == QCOW2_V3_HEADER_BYTES,
               "version 3 header");

bool
qcow2_header_probe(const uint8_t *bytes, size_t n_bytes)
{
    qimg_be32 words[2] = {0};

    if (n_bytes < sizeof words[0])
        return false;
    memcpy(words, bytes, qimg_min_u64(n_bytes, sizeof words));
    return qimg_be32_get(words[0]) == QCOW2_MAGIC && qimg_be32_get(words[1]) != 1;
}

static void
decode_v2_fields(const DiskHeader *disk, Qcow2Header *h)
{
    h->version = qimg_be32_get(disk->version);
    h->backing_name_offset = qimg_be64_get(disk->backing_file_offset);
    h->backing_name_bytes = qimg_be32_get(disk->backing_file_size);
    h->cluster_bits = qimg_be32_get(disk->cluster_bits);
    /* Practice (QEMU): the disk has whole sectors only. Spec: qcow2 section 2. */
    h->size_bytes = qimg_align_down(qimg_be64_get(disk->size), QIMG_SECTOR_BYTES);
    h->crypt_method = qimg_be32_get(disk->crypt_method);
    h->n_l1_entries = qimg_be32_get(disk->l1_size);
    h->l1_table_offset = qimg_be64_get(disk->l1_table_offset);
    h->refcount_table_offset = qimg_be64_get(disk->refcount_table_offset);
    h->n_refcount_table_clusters = qimg_be32_get(disk->refcount_table_clusters);
    h->n_snapshots = qimg_be32_get(disk->nb_snapshots);
    h->snapshots_offset = qimg_be64_get(disk->snapshots_offset);
    h->refcount_order = 4;
    h->header_bytes = QCOW2_V2_HEADER_BYTES;
}

static void
decode_v3_fields(const DiskHeader *disk, size_t n_bytes, Qcow2Header *h)
{
    h->incompatible_features = qimg_be64_get(disk->incompatible_features);
    h->compatible_features = qimg_be64_get(disk->compatible_features);
    h->autoclear_features = qimg_be64_get(disk->autoclear_features);
    h->refcount_order = qimg_be32_get(disk->refcount_order);
    h->header_bytes = qimg_be32_get(disk->header_length);
    if (h->header_bytes > QCOW2_V3_HEADER_BYTES && n_bytes > QCOW2_V3_HEADER_BYTES)
        h->compression_type = disk->compression_type;
}

/* The checks 3 to 8 of spec section 12: the fields on which the rest of the header
 * depends. */
static QimgDecode
check_layout(const Qcow2Header *h, size_t n_bytes)
{
    uint64_t cluster_bytes;

    if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
        return qimg_decode_broken(QIMG_RULE_CLUSTER_BITS, h->cluster_bits);
    cluster_bytes = UINT64_C(1) << h->cluster_bits;
    if (h->version >= 3 && (h->header_bytes < QCOW2_V3_HEADER_BYTES ||
                            h->header_bytes > cluster_bytes || h->header_bytes % 8 != 0))
        return qimg_decode_broken(QIMG_RULE_HEADER_LENGTH, h->header_bytes);
    if (h->header_bytes > n_bytes)
        return qimg_decode_broken(QIMG_RULE_SHORT_HEADER, n_bytes);
    if (h->backing_name_offset > cluster_bytes)
        return qimg_decode_broken(QIMG_RULE_BACKING_NAME_OFFSET, h->backing_name_offset);
    return qimg_decode_ok();
}

QimgDecode
qcow2_header_check_refcount_table(const Qcow2Header *h)
{
    uint64_t cluster_bytes = UINT64_C(1) << h->cluster_bits;
    QimgRule rule;

    if (h->n_refcount_table_clusters < 1)
        return qimg_decode_broken(QIMG_RULE_REFTABLE_CLUSTERS, 0);
    rule = qcow2_check_table(h->refcount_table_offset, h->n_refcount_table_clusters,
                             cluster_bytes, cluster_bytes, QCOW2_MAX_REFCOUNT_TABLE_BYTES,
                             QIMG_RULE_REFTABLE_SIZE, QIMG_RULE_REFTABLE_OFFSET);
    if (rule || h->refcount_table_offset == 0)
        return qimg_decode_broken(rule ? rule : QIMG_RULE_REFTABLE_OFFSET,
                                  rule == QIMG_RULE_REFTABLE_SIZE
                                      ? h->n_refcount_table_clusters
                                      : h->refcount_table_offset);
    return qimg_decode_ok();
}

QimgDecode
qcow2_header_check_snapshot_table(const Qcow2Header *h)
{
    QimgRule rule = qcow2_check_table(
        h->snapshots_offset, h->n_snapshots, 40, UINT64_C(1) << h->cluster_bits,
        UINT64_C(40) * QCOW2_MAX_SNAPSHOTS, QIMG_RULE_SNAPSHOTS_COUNT,
        QIMG_RULE_SNAPSHOTS_OFFSET);

    if (!rule && h->n_snapshots > 0 && h->snapshots_offset == 0)
        rule = QIMG_RULE_SNAPSHOTS_OFFSET;
    if (rule)
        return qimg_decode_broken(rule, rule == QIMG_RULE_SNAPSHOTS_COUNT
                                            ? h->n_snapshots
                                            : h->snapshots_offset);
    return qimg_decode_ok();
}

Qcow2Geometry
qcow2_header_geometry(const Qcow2Header *header)
{
    return qcow2_geometry_new(
        header->version, header->cluster_bits,
        (header->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2) != 0,
        (header->incompatible_features & QCOW2_INCOMPAT_DATA_FILE) != 0);
}

/* Checks that the L1 table of @header can map the virtual size. */
static QimgDecode
check_size(const Qcow2Header *header)
{
    Qcow2Geometry geometry = qcow2_header_geometry(header);
    uint64_t n_needed = qcow2_geometry_l1_entries_for(&geometry, header->size_bytes);

    if (header->size_bytes > INT64_MAX || n_needed > INT_MAX)
        return qimg_decode_broken(QIMG_RULE_VIRTUAL_SIZE, header->size_bytes);
    if (header->n_l1_entries < n_needed)
        return qimg_decode_broken(QIMG_RULE_L1_TOO_SMALL, header->n_l1_entries);
    return qimg_decode_ok();
}

static QimgDecode
check_l1_table(const Qcow2Header *h)
{
    QimgRule rule = qcow2_check_table(h->l1_table_offset, h->n_l1_entries, 8,
                                      UINT64_C(1) << h->cluster_bits, QCOW2_MAX_L1_BYTES,
                                      QIMG_RULE_L1_SIZE, QIMG_RULE_L1_OFFSET);

    if (!rule && h->n_l1_entries > 0 && h->l1_table_offset == 0)
        rule = QIMG_RULE_L1_OFFSET;
    if (rule)
        return qimg_decode_broken(rule, rule == QIMG_RULE_L1_SIZE ? h->n_l1_entries
                                                                  : h->l1_table_offset);
    return qimg_decode_ok();
}

/* The checks 7 and 8, and 11 to 19. */
static QimgDecode
check_fields(const Qcow2Header *h, bool for_check)
{
    bool has_type_bit = (h->incompatible_features & QCOW2_INCOMPAT_COMPRESSION) != 0;
    QimgDecode result = qimg_decode_ok();

    if (h->compression_type > QCOW2_COMPRESSION_ZSTD)
        return qimg_decode_broken(QIMG_RULE_COMPRESSION_TYPE, h->compression_type);
    if (has_type_bit != (h->compression_type != QCOW2_COMPRESSION_DEFLATE))
        return qimg_decode_broken(QIMG_RULE_COMPRESSION_BIT, h->compression_type);
    if ((h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2) &&
        h->cluster_bits < QCOW2_MIN_EXTENDED_CLUSTER_BITS)
        return qimg_decode_broken(QIMG_RULE_SUBCLUSTER_SIZE, h->cluster_bits);
    if (h->refcount_order > 6)
        return qimg_decode_broken(QIMG_RULE_REFCOUNT_ORDER, h->refcount_order);
    if (h->crypt_method > QCOW2_CRYPT_LUKS)
        return qimg_decode_broken(QIMG_RULE_CRYPT_METHOD, h->crypt_method);
    if (!for_check)
        result = qcow2_header_check_refcount_table(h);
    if (!result.rule && !for_check)
        result = qcow2_header_check_snapshot_table(h);
    if (!result.rule)
        result = check_l1_table(h);
    return result.rule ? result : check_size(h);
}

static QimgDecode
header_decode(const uint8_t *bytes, size_t n_bytes, bool for_check, Qcow2Header *out)
{
    DiskHeader disk = {0};
    Qcow2Header h = {0};
    QimgDecode result;

    if (n_bytes >= 4 && !qcow2_header_probe(bytes, n_bytes)) {
        memcpy(&disk.magic, bytes, sizeof disk.magic);
        if (qimg_be32_get(disk.magic) != QCOW2_MAGIC)
            return qimg_decode_broken(QIMG_RULE_MAGIC, qimg_be32_get(disk.magic));
    }
    if (n_bytes < QCOW2_V2_HEADER_BYTES)
        return qimg_decode_broken(QIMG_RULE_SHORT_HEADER, n_bytes);
    memcpy(&disk, bytes, qimg_min_u64(n_bytes, sizeof disk));
    decode_v2_fields(&disk, &h);
    if (h.version != 2 && h.version != 3)
        return qimg_decode_broken(QIMG_RULE_VERSION, h.version);
    if (h.version == 3) {
        if (n_bytes < QCOW2_V3_HEADER_BYTES)
            return qimg_decode_broken(QIMG_RULE_SHORT_HEADER, n_bytes);
        decode_v3_fields(&disk, n_bytes, &h);
    }
    result = check_layout(&h, n_bytes);
    if (result.rule)
        return result;
    /* A later version may have changed the meaning of fields: the caller must be able to
     * name an unknown bit before a field is rejected. */
    if ((h.incompatible_features & ~(uint64_t)QCOW2_INCOMPAT_KNOWN) == 0) {
        result = check_fields(&h, for_check);
        if (result.rule)
            return result;
    }
    *out = h;
    return qimg_decode_ok();
}

QimgDecode
qcow2_header_decode(const uint8_t *bytes, size_t n_bytes, Qcow2Header *out)
{
    return header_decode(bytes, n_bytes, false, out);
}

QimgDecode
qcow2_header_decode_for_check(const uint8_t *bytes, size_t n_bytes, Qcow2Header *out)
{
    return header_decode(bytes, n_bytes, true, out);
}

bool
qcow2_header_encode(const Qcow2Header *header, uint8_t *bytes, size_t n_bytes)
{
    DiskHeader disk = {
        .magic = qimg_be32_set(QCOW2_MAGIC),
        .version = qimg_be32_set(header->version),
        .backing_file_offset = qimg_be64_set(header->backing_name_offset),
        .backing_file_size = qimg_be32_set(header->backing_name_bytes),
        .cluster_bits = qimg_be32_set(header->cluster_bits),
        .size = qimg_be64_set(header->size_bytes),
        .crypt_method = qimg_be32_set(header->crypt_method),
        .l1_size = qimg_be32_set(header->n_l1_entries),
        .l1_table_offset = qimg_be64_set(header->l1_table_offset),
        .refcount_table_offset = qimg_be64_set(header->refcount_table_offset),
        .refcount_table_clusters = qimg_be32_set(header->n_refcount_table_clusters),
        .nb_snapshots = qimg_be32_set(header->n_snapshots),
        .snapshots_offset = qimg_be64_set(header->snapshots_offset),
        .incompatible_features = qimg_be64_set(header->incompatible_features),
        .compatible_features = qimg_be64_set(header->compatible_features),
        .autoclear_features = qimg_be64_set(header->autoclear_features),
        .refcount_order = qimg_be32_set(header->refcount_order),
        .header_length = qimg_be32_set(header->header_bytes),
        .compression_type = header->compression_type,
    };

    if (n_bytes < header->header_bytes)
        return false;
    memcpy(bytes, &disk, qimg_min_u64(header->header_bytes, sizeof disk));
    return true;
}

uint64_t
qcow2_header_extensions_end(const Qcow2Header *header)
{
    return header->backing_name_offset ? header->backing_name_offset
                                       : UINT64_C(1) << header->cluster_bits;
}

QimgDecode
qcow2_extension_decode(const uint8_t *bytes, size_t end_position, size_t *position,
                       Qcow2Extension *out)
{
    qimg_be32 words[2];
    size_t data_position;
    uint32_t length;

    *out = (Qcow2Extension){.type = QCOW2_EXT_END};
    if (*position >= end_position)
        return qimg_decode_ok();
    if (end_position - *position < sizeof words)
        return qimg_decode_broken(QIMG_RULE_EXTENSION_BOUNDS, *position);
    memcpy(words, bytes + *position, sizeof words);
    data_position = *position + sizeof words;
    length = qimg_be32_get(words[1]);
    if (length > end_position - data_position)
        return qimg_decode_broken(QIMG_RULE_EXTENSION_BOUNDS, length);
    out->type = qimg_be32_get(words[0]);
    out->data = bytes + data_position;
    out->data_bytes = length;
    /* The padding to a multiple of 8 may pass the end: then this was the last
     * extension. */
    *position = data_position + (((size_t)length + 7) & ~(size_t)7);
    return qimg_decode_ok();
}

bool
qcow2_extension_encode(const Qcow2Extension *extension, uint8_t *bytes,
                       size_t end_position, size_t *position)
{
    qimg_be32 words[2] = {qimg_be32_set(extension->type),
                          qimg_be32_set(extension->data_bytes)};
    uint64_t padded_bytes = qimg_align_down(UINT64_C(7) + extension->data_bytes, 8);
    uint8_t *out;

    if (!qimg_range_fits(*position, sizeof words + padded_bytes, end_position))
        return false;
    out = bytes + *position;
    memcpy(out, words, sizeof words);
    out += sizeof words;
    memset(out, 0, padded_bytes);
    if (extension->data_bytes > 0)
        memcpy(out, extension->data, extension->data_bytes);
    *position += sizeof words + padded_bytes;
    return true;
}

bool
qcow2_feature_name_find(const Qcow2Extension *table, uint8_t feature_type, uint8_t bit,
                        char name_out[QCOW2_FEATURE_NAME_BYTES + 1])
{
    const size_t entry_bytes = 2 + QCOW2_FEATURE_NAME_BYTES;

    for (size_t at = 0; at + entry_bytes <= table->data_bytes; at += entry_bytes) {
        const uint8_t *entry = table->data + at;

        if (entry[0] == feature_type && entry[1] == bit) {
            memcpy(name_out, entry + 2, QCOW2_FEATURE_NAME_BYTES);
            name_out[QCOW2_FEATURE_NAME_BYTES] = '\0';
            return true;
        }
    }
    return false;
}

void
qcow2_feature_names_encode(uint8_t table_out[QCOW2_FEATURE_NAME_TABLE_BYTES])
{
    /* QEMU's words. Spec: qcow2 section 2.1. */
    static const struct {
        uint8_t feature_type;
        uint8_t bit;
        char name[QCOW2_FEATURE_NAME_BYTES];
    } names[QCOW2_N_FEATURE_NAMES] = {
        {0, 0, "dirty bit"},
        {0, 1, "corrupt bit"},
        {0, 2, "external data file"},
        {0, 3, "compression type"},
        {0, 4, "extended L2 entries"},
        {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},
        {2, 1, "raw external data"},
    };

    _Static_assert(sizeof names == QCOW2_FEATURE_NAME_TABLE_BYTES, "bytes as on disk");
    memcpy(table_out, names, sizeof names);
}
