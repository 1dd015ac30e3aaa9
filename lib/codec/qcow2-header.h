/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The qcow2 header of versions 2 and 3, its feature bits and header extensions.
 * Spec: qcow2 sections 2 and 12. Pure functions; no state, any thread. */
#pragma once

#include "codec/qcow2-geometry.h"
#include "codec/rules.h"

#define QCOW2_MAGIC            0x514649fbu
#define QCOW2_V2_HEADER_BYTES  72u
#define QCOW2_V3_HEADER_BYTES  104u
#define QCOW2_MIN_CLUSTER_BITS 9u
#define QCOW2_MAX_CLUSTER_BITS 21u
/* Subclusters must be whole sectors. */
#define QCOW2_MIN_EXTENDED_CLUSTER_BITS 14u
#define QCOW2_MAX_BACKING_NAME          1023u
#define QCOW2_MAX_BACKING_FORMAT        15u

enum {
    QCOW2_INCOMPAT_DIRTY = 1u << 0,
    QCOW2_INCOMPAT_CORRUPT = 1u << 1,
    QCOW2_INCOMPAT_DATA_FILE = 1u << 2,
    QCOW2_INCOMPAT_COMPRESSION = 1u << 3,
    QCOW2_INCOMPAT_EXTENDED_L2 = 1u << 4,
    QCOW2_INCOMPAT_ZONED = 1u << 5, /* proposed: spec zoned */
    QCOW2_INCOMPAT_KNOWN = (1u << 5) - 1,

    QCOW2_COMPAT_LAZY_REFCOUNTS = 1u << 0,

    QCOW2_AUTOCLEAR_BITMAPS = 1u << 0,
    QCOW2_AUTOCLEAR_DATA_FILE_RAW = 1u << 1,
};

/* The positions of fields that are written alone. Spec: qcow2 section 2. */
enum {
    QCOW2_HEADER_AT_BACKING_NAME = 8, /* offset */
    QCOW2_HEADER_AT_SIZE = 24,
    QCOW2_HEADER_AT_L1 = 36,             /* l1_size, l1_table_offset */
    QCOW2_HEADER_AT_REFCOUNT_TABLE = 48, /* offset, clusters */
    QCOW2_HEADER_AT_SNAPSHOTS = 60,      /* count, offset */
    QCOW2_HEADER_AT_INCOMPATIBLE = 72,
    QCOW2_HEADER_AT_AUTOCLEAR = 88,
};

typedef enum {
    QCOW2_CRYPT_NONE = 0,
    QCOW2_CRYPT_AES = 1,
    QCOW2_CRYPT_LUKS = 2,
} Qcow2CryptMethod;

typedef enum {
    QCOW2_COMPRESSION_DEFLATE = 0,
    QCOW2_COMPRESSION_ZSTD = 1,
} Qcow2CompressionType;

typedef struct {
    uint32_t version;
    uint64_t backing_name_offset; /* bytes from the start of the file; 0: none */
    uint32_t backing_name_bytes;
    uint32_t cluster_bits;
    uint64_t size_bytes; /* virtual size, whole sectors */
    uint32_t crypt_method;
    uint32_t n_l1_entries;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t n_refcount_table_clusters;
    uint32_t n_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible_features;
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t refcount_order;
    uint32_t header_bytes; /* header_length */
    uint8_t compression_type;
} Qcow2Header;

/* The geometry of a header accepted by qcow2_header_decode. */
Qcow2Geometry qcow2_header_geometry(const Qcow2Header *header);

/* Whether @n_bytes at @bytes begin like a qcow2 image: with the magic number, and not
 * with version 1, which is another format. */
bool qcow2_header_probe(const uint8_t *bytes, size_t n_bytes);

/* Decodes the fixed part of the header from the first @n_bytes of the file (a cluster, or
 * the whole file) and checks each field that can be checked alone, the tables' bounds and
 * the feature bits' agreement. The caller must refuse unknown incompatible bits: they
 * come before all later checks, see qcow2_header_has_unknown. */
QimgDecode qcow2_header_decode(const uint8_t *bytes, size_t n_bytes, Qcow2Header *out);

/* As qcow2_header_decode, but leaves the two checks below to the caller, since a check of
 * the image can do without these tables. */
QimgDecode qcow2_header_decode_for_check(const uint8_t *bytes, size_t n_bytes,
                                         Qcow2Header *out);

/* Whether the header's fields of the refcount table, and of the snapshot table, are
 * sound. */
QimgDecode qcow2_header_check_refcount_table(const Qcow2Header *header);
QimgDecode qcow2_header_check_snapshot_table(const Qcow2Header *header);

/* The inverse of decode: writes the fields of @header, which decode would accept, to the
 * @n_bytes at @bytes. Fields behind the known ones (covered by header_length) keep their
 * @bytes. False, with nothing written, if @n_bytes is less than the header's length. */
bool qcow2_header_encode(const Qcow2Header *header, uint8_t *bytes, size_t n_bytes)
    QIMG_MUST_CHECK;

/* The end of the header extensions. Spec: qcow2 section 2.3. */
uint64_t qcow2_header_extensions_end(const Qcow2Header *header);

enum {
    QCOW2_EXT_END = 0,
    QCOW2_EXT_BACKING_FORMAT = 0xe2792acau,
    QCOW2_EXT_FEATURE_NAMES = 0x6803f857u,
    QCOW2_EXT_BITMAPS = 0x23852875u,
    QCOW2_EXT_ENCRYPTION = 0x0537be77u,
    QCOW2_EXT_DATA_FILE = 0x44415441u,
    QCOW2_EXT_ZONED = 0x007a6264u,
};

typedef struct {
    uint32_t type;
    const uint8_t *data; /* inside the header's bytes */
    uint32_t data_bytes;
} Qcow2Extension;

/* Decodes the extension at *@position and moves *@position behind it; type QCOW2_EXT_END
 * when there is no further one. @end_position is at most the length of @bytes. */
QimgDecode qcow2_extension_decode(const uint8_t *bytes, size_t end_position,
                                  size_t *position, Qcow2Extension *out);

/* The inverse: writes @extension, padded with zeros to a multiple of 8, at *@position and
 * moves *@position behind it; type QCOW2_EXT_END writes the end mark of the list. False,
 * with nothing written, if it would pass @end_position. */
bool qcow2_extension_encode(const Qcow2Extension *extension, uint8_t *bytes,
                            size_t end_position, size_t *position) QIMG_MUST_CHECK;

#define QCOW2_FEATURE_NAME_BYTES 46u

/* Finds the name of bit @bit of the set @feature_type (0 incompatible, 1 compatible, 2
 * autoclear) in a feature name table; copies it, NUL-terminated. False if absent. */
bool qcow2_feature_name_find(const Qcow2Extension *table, uint8_t feature_type,
                             uint8_t bit, char name_out[QCOW2_FEATURE_NAME_BYTES + 1]);

/* The data of a feature name table with the known features. */
#define QCOW2_N_FEATURE_NAMES 8u
#define QCOW2_FEATURE_NAME_TABLE_BYTES                                                   \
    (QCOW2_N_FEATURE_NAMES * (2 + QCOW2_FEATURE_NAME_BYTES))
void qcow2_feature_names_encode(uint8_t table_out[QCOW2_FEATURE_NAME_TABLE_BYTES]);
