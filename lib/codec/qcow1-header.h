/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header of qcow version 1: 48 bytes, followed (usually at once) by the backing
 * file's name and the L1 table. Practice: QEMU 0.6 to 7.2. Pure functions; no state, any
 * thread.
 */
#pragma once

#include "codec/rules.h"

#define QCOW1_MAGIC            0x514649fbu
#define QCOW1_HEADER_BYTES     48u
#define QCOW1_MIN_CLUSTER_BITS 9u
#define QCOW1_MAX_CLUSTER_BITS 16u
#define QCOW1_MIN_L2_BITS      6u
#define QCOW1_MAX_L2_BITS      13u
#define QCOW1_MAX_BACKING_NAME 1023u
/* Tables of up to 2 GiB, as QEMU reads them (it holds all of it in memory). */
#define QCOW1_MAX_L1_ENTRIES (INT32_MAX / 8u)

typedef enum {
    QCOW1_CRYPT_NONE = 0,
    QCOW1_CRYPT_AES = 1,
} Qcow1CryptMethod;

typedef struct {
    uint64_t backing_name_offset; /* bytes from the start of the file; 0: none */
    uint32_t backing_name_bytes;
    uint32_t mtime_s;     /* of the backing file, since 1970; 0: not stored */
    uint64_t size_bytes;  /* virtual size, whole sectors */
    uint8_t cluster_bits; /* log2 of bytes */
    uint8_t l2_bits;      /* log2 of the entries of an L2 table */
    uint32_t crypt_method;
    uint64_t l1_table_offset;
    uint32_t n_l1_entries; /* follows from the size */
} Qcow1Header;

/* Whether @n_bytes at @bytes begin like a qcow version 1 image. */
bool qcow1_header_probe(const uint8_t *bytes, size_t n_bytes);

/* Decodes the header from the first @n_bytes of the file and checks its fields, except
 * the place of the backing file's name, which depends on the file's length. */
QimgDecode qcow1_header_decode(const uint8_t *bytes, size_t n_bytes, Qcow1Header *out);
