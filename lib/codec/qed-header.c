/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decodes and encodes the QED header. Spec: qed sections 1 and 3. */
#include "codec/qed-header.h"

#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

#define MAGIC UINT32_C(0x00444551) /* "QED\0" */

/* Spec: qed section 1. */
typedef struct {
    qimg_le32 magic;
    qimg_le32 cluster_size;
    qimg_le32 table_size;
    qimg_le32 header_size;
    qimg_le64 features;
    qimg_le64 compat_features;
    qimg_le64 autoclear_features;
    qimg_le64 l1_table_offset;
    qimg_le64 image_size;
    qimg_le32 backing_filename_offset;
    qimg_le32 backing_filename_size;
} DiskHeader;

_Static_assert(sizeof(DiskHeader) == QED_HEADER_BYTES, "the header as in the file");
_Static_assert(offsetof(DiskHeader, features) == QED_HEADER_AT_FEATURES, "features");
_Static_assert(offsetof(DiskHeader, autoclear_features) == QED_HEADER_AT_AUTOCLEAR,
               "autoclear features");
_Static_assert(offsetof(DiskHeader, image_size) == QED_HEADER_AT_IMAGE_SIZE, "size");

bool
qed_header_probe(const uint8_t *bytes, size_t n_bytes)
{
    qimg_le32 magic;

    if (n_bytes < sizeof magic)
        return false;
    memcpy(&magic, bytes, sizeof magic);
    return qimg_le32_get(magic) == MAGIC;
}

static bool
qed_is_power_of_two(uint32_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

uint64_t
qed_max_size_bytes(const QedHeader *h)
{
    /* Both tables have 2^entry_bits entries. */
    unsigned entry_bits =
        (unsigned)__builtin_ctzll(qed_table_bytes(h)) - (unsigned)__builtin_ctzll(8);
    unsigned bits = 2 * entry_bits + h->cluster_bits;

    return bits < 63 ? UINT64_C(1) << bits
                     : qimg_align_down(INT64_MAX, QIMG_SECTOR_BYTES);
}

static QimgDecode
check_backing_name(const QedHeader *h)
{
    if (h->backing_name_bytes > QED_MAX_BACKING_NAME)
        return qimg_decode_broken(QIMG_RULE_QED_BACKING_NAME_SIZE, h->backing_name_bytes);
    if (!qimg_range_fits(h->backing_name_offset, h->backing_name_bytes,
                         qed_header_end(h)))
        return qimg_decode_broken(QIMG_RULE_QED_BACKING_NAME_OFFSET,
                                  h->backing_name_offset);
    return qimg_decode_ok();
}

QimgDecode
qed_header_decode(const uint8_t *bytes, size_t n_bytes, QedHeader *out)
{
    DiskHeader disk;
    uint32_t cluster_size, table_size;
    QimgDecode broken;
    QedHeader h;

    if (!qed_header_probe(bytes, n_bytes))
        return qimg_decode_broken(QIMG_RULE_QED_MAGIC, n_bytes > 0 ? bytes[0] : 0);
    if (n_bytes < sizeof disk)
        return qimg_decode_broken(QIMG_RULE_SHORT_HEADER, n_bytes);
    memcpy(&disk, bytes, sizeof disk);
    h = (QedHeader){.features = qimg_le64_get(disk.features)};
    if (h.features & ~QED_FEATURES_KNOWN) {
        *out = h;
        return qimg_decode_ok();
    }
    cluster_size = qimg_le32_get(disk.cluster_size);
    table_size = qimg_le32_get(disk.table_size);
    if (!qed_is_power_of_two(cluster_size) || cluster_size < 1u << QED_MIN_CLUSTER_BITS ||
        cluster_size > 1u << QED_MAX_CLUSTER_BITS)
        return qimg_decode_broken(QIMG_RULE_QED_CLUSTER_SIZE, cluster_size);
    if (!qed_is_power_of_two(table_size) || table_size > QED_MAX_TABLE_SIZE)
        return qimg_decode_broken(QIMG_RULE_QED_TABLE_SIZE, table_size);
    h = (QedHeader){
        .cluster_bits = (unsigned)__builtin_ctz(cluster_size),
        .table_clusters = table_size,
        .header_clusters = qimg_le32_get(disk.header_size),
        .features = h.features,
        .compat_features = qimg_le64_get(disk.compat_features),
        .autoclear_features = qimg_le64_get(disk.autoclear_features),
        .l1_table_offset = qimg_le64_get(disk.l1_table_offset),
        .size_bytes = qimg_le64_get(disk.image_size),
    };
    if (h.features & QED_FEATURE_BACKING) {
        h.backing_name_offset = qimg_le32_get(disk.backing_filename_offset);
        h.backing_name_bytes = qimg_le32_get(disk.backing_filename_size);
    }
    if (h.header_clusters == 0)
        return qimg_decode_broken(QIMG_RULE_QED_HEADER_SIZE, 0);
    if (!qimg_is_aligned(h.size_bytes, QIMG_SECTOR_BYTES) ||
        h.size_bytes > qed_max_size_bytes(&h))
        return qimg_decode_broken(QIMG_RULE_QED_IMAGE_SIZE, h.size_bytes);
    if (!qimg_is_aligned(h.l1_table_offset, cluster_size) ||
        h.l1_table_offset < qed_header_end(&h) ||
        !qimg_range_fits(h.l1_table_offset, qed_table_bytes(&h), INT64_MAX))
        return qimg_decode_broken(QIMG_RULE_QED_L1_OFFSET, h.l1_table_offset);
    broken = check_backing_name(&h);
    if (!broken.rule)
        *out = h;
    return broken;
}

void
qed_header_encode(const QedHeader *h, uint8_t bytes[QED_HEADER_BYTES])
{
    DiskHeader disk = {
        .magic = qimg_le32_set(MAGIC),
        .cluster_size = qimg_le32_set(UINT32_C(1) << h->cluster_bits),
        .table_size = qimg_le32_set(h->table_clusters),
        .header_size = qimg_le32_set(h->header_clusters),
        .features = qimg_le64_set(h->features),
        .compat_features = qimg_le64_set(h->compat_features),
        .autoclear_features = qimg_le64_set(h->autoclear_features),
        .l1_table_offset = qimg_le64_set(h->l1_table_offset),
        .image_size = qimg_le64_set(h->size_bytes),
        .backing_filename_offset = qimg_le32_set(h->backing_name_offset),
        .backing_filename_size = qimg_le32_set(h->backing_name_bytes),
    };

    memcpy(bytes, &disk, sizeof disk);
}
