/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The QED header. Spec: qed section 1. */
#pragma once

#include "codec/rules.h"

#define QED_HEADER_BYTES     64u
#define QED_MIN_CLUSTER_BITS 12u
#define QED_MAX_CLUSTER_BITS 26u
#define QED_MAX_TABLE_SIZE   16u
#define QED_MAX_BACKING_NAME 4095u

/* The positions in the file of fields that are changed alone. */
#define QED_HEADER_AT_FEATURES   16u
#define QED_HEADER_AT_AUTOCLEAR  32u
#define QED_HEADER_AT_IMAGE_SIZE 48u

typedef enum {
    QED_FEATURE_BACKING = 1 << 0,     /* the backing name's fields are valid */
    QED_FEATURE_NEED_CHECK = 1 << 1,  /* was not closed properly */
    QED_FEATURE_BACKING_RAW = 1 << 2, /* the backing file is raw, with any content */
} QedFeature;

#define QED_FEATURES_KNOWN                                                               \
    ((uint64_t)(QED_FEATURE_BACKING | QED_FEATURE_NEED_CHECK | QED_FEATURE_BACKING_RAW))

typedef struct {
    unsigned cluster_bits;
    unsigned table_clusters;  /* of an L1 or L2 table */
    uint32_t header_clusters; /* used by the header and its names */
    uint64_t features;
    uint64_t compat_features;
    uint64_t autoclear_features;
    uint64_t l1_table_offset;
    uint64_t size_bytes;
    uint32_t backing_name_offset; /* 0 without QED_FEATURE_BACKING, as the next */
    uint32_t backing_name_bytes;
} QedHeader;

/* Whether @bytes begin like a QED image. */
bool qed_header_probe(const uint8_t *bytes, size_t n_bytes);

/* Decodes and checks the first @n_bytes of a file. An unknown feature may have changed
 * the meaning of everything else: with one beyond QED_FEATURES_KNOWN only the features
 * are decoded, and the caller must refuse the image. *@out is set on success only. */
QimgDecode qed_header_decode(const uint8_t *bytes, size_t n_bytes, QedHeader *out);

/* Encodes @header, which must comply with the rules. */
void qed_header_encode(const QedHeader *header, uint8_t bytes[QED_HEADER_BYTES]);

static inline uint64_t
qed_cluster_bytes(const QedHeader *header)
{
    return UINT64_C(1) << header->cluster_bits;
}

/* The size of an L1 or L2 table. */
static inline uint64_t
qed_table_bytes(const QedHeader *header)
{
    return (uint64_t)header->table_clusters << header->cluster_bits;
}

/* The start of the first cluster behind the header. */
static inline uint64_t
qed_header_end(const QedHeader *header)
{
    return (uint64_t)header->header_clusters << header->cluster_bits;
}

/* The largest disk that the tables can map and a file can hold. */
uint64_t qed_max_size_bytes(const QedHeader *header);
