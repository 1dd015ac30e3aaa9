/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The location of persistent bitmaps: the header extension, the directory's entries, the
 * tables' entries. Spec: bitmaps sections 1 to 3. Inline and pure; any thread. */
#pragma once

#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/rules.h"

#define QCOW2_BITMAPS_EXTENSION_BYTES    24u
#define QCOW2_BITMAP_FIXED_BYTES         24u
#define QCOW2_MAX_BITMAPS                65535u
#define QCOW2_MAX_BITMAP_DIRECTORY_BYTES (UINT64_C(1024) * QCOW2_MAX_BITMAPS)
#define QCOW2_MAX_BITMAP_NAME            1023u
#define QCOW2_MAX_BITMAP_TABLE_ENTRIES   UINT64_C(0x8000000)

typedef struct {
    uint32_t n_bitmaps;
    uint64_t directory_bytes;
    uint64_t directory_offset;
} Qcow2BitmapsExtension;

/* Decodes the data of the extension. */
static inline QimgDecode
qcow2_bitmaps_extension_decode(const uint8_t *data, uint32_t data_bytes,
                               uint64_t cluster_bytes, Qcow2BitmapsExtension *out)
{
    struct {
        qimg_be32 n_bitmaps;
        qimg_be32 reserved;
        qimg_be64 directory_bytes;
        qimg_be64 directory_offset;
    } disk;
    uint64_t n;

    _Static_assert(sizeof disk == QCOW2_BITMAPS_EXTENSION_BYTES, "on-disk size");
    if (data_bytes != sizeof disk)
        return qimg_decode_broken(QIMG_RULE_BITMAP_DIRECTORY, data_bytes);
    memcpy(&disk, data, sizeof disk);
    n = qimg_be32_get(disk.n_bitmaps);
    if (n == 0 || n > QCOW2_MAX_BITMAPS)
        return qimg_decode_broken(QIMG_RULE_BITMAP_DIRECTORY, n);
    *out = (Qcow2BitmapsExtension){
        .n_bitmaps = (uint32_t)n,
        .directory_bytes = qimg_be64_get(disk.directory_bytes),
        .directory_offset = qimg_be64_get(disk.directory_offset),
    };
    if (out->directory_bytes < n * QCOW2_BITMAP_FIXED_BYTES ||
        out->directory_bytes > QCOW2_MAX_BITMAP_DIRECTORY_BYTES)
        return qimg_decode_broken(QIMG_RULE_BITMAP_DIRECTORY, out->directory_bytes);
    if (out->directory_offset == 0 ||
        !qimg_is_aligned(out->directory_offset, cluster_bytes))
        return qimg_decode_broken(QIMG_RULE_BITMAP_DIRECTORY, out->directory_offset);
    return qimg_decode_ok();
}

typedef struct {
    uint64_t table_offset;
    uint32_t n_table_entries;
    uint32_t flags; /* QCOW2_BITMAP_… */
    uint8_t type;
    uint8_t granularity_bits;
    uint16_t name_bytes;
    uint32_t extra_bytes;
    uint64_t name_position; /* in the entry; not NUL-terminated */
    uint64_t entry_bytes;   /* with extra data and name, rounded up to 8 */
} Qcow2BitmapEntry;

#define QCOW2_BITMAP_IN_USE 1u /* was not stored properly */
#define QCOW2_BITMAP_AUTO   2u /* all changes are recorded */

/* The place of the flags in an entry. They never lie across two sectors, since entries
 * begin at multiples of 8 of an area that is cluster aligned. */
#define QCOW2_BITMAP_AT_FLAGS 12u

#define QCOW2_BITMAP_TYPE_DIRTY           1u
#define QCOW2_MIN_BITMAP_GRANULARITY_BITS 9u
#define QCOW2_MAX_BITMAP_GRANULARITY_BITS 31u
#define QCOW2_MAX_BITMAP_BYTES            (UINT64_C(512) << 20) /* of one bitmap's bits */

/* Decodes a directory entry at @bytes; @n_bytes is the rest of the directory. Fails only
 * if the end of the entry is unknown; the caller checks all other fields. */
static inline QimgDecode
qcow2_bitmap_entry_decode(const uint8_t *bytes, uint64_t n_bytes, Qcow2BitmapEntry *out)
{
    struct {
        qimg_be64 table_offset;
        qimg_be32 n_table_entries;
        qimg_be32 flags;
        uint8_t type;
        uint8_t granularity_bits;
        qimg_be16 name_bytes;
        qimg_be32 extra_bytes;
    } disk;
    uint64_t name_bytes;

    _Static_assert(sizeof disk == QCOW2_BITMAP_FIXED_BYTES, "on-disk size");
    if (n_bytes < sizeof disk)
        return qimg_decode_broken(QIMG_RULE_BITMAP_DIRECTORY, n_bytes);
    memcpy(&disk, bytes, sizeof disk);
    name_bytes = qimg_be16_get(disk.name_bytes);
    *out = (Qcow2BitmapEntry){
        .table_offset = qimg_be64_get(disk.table_offset),
        .n_table_entries = qimg_be32_get(disk.n_table_entries),
        .flags = qimg_be32_get(disk.flags),
        .type = disk.type,
        .granularity_bits = disk.granularity_bits,
        .name_bytes = (uint16_t)name_bytes,
        .extra_bytes = qimg_be32_get(disk.extra_bytes),
        .name_position = sizeof disk + (uint64_t)qimg_be32_get(disk.extra_bytes),
        .entry_bytes = (sizeof disk + name_bytes + qimg_be32_get(disk.extra_bytes) + 7) &
                       ~UINT64_C(7),
    };
    if (out->entry_bytes > n_bytes)
        return qimg_decode_broken(QIMG_RULE_BITMAP_DIRECTORY, out->entry_bytes);
    return qimg_decode_ok();
}

/* How many bytes of bits a disk of @size_bytes needs, and how many entries its table has.
 */
static inline uint64_t
qcow2_bitmap_bytes_for(uint64_t size_bytes, unsigned granularity_bits)
{
    uint64_t n_bits = (size_bytes >> granularity_bits) +
                      ((size_bytes & ((UINT64_C(1) << granularity_bits) - 1)) != 0);

    return qimg_div_round_up(n_bits, 8);
}

static inline uint64_t
qcow2_bitmap_entries_for(uint64_t size_bytes, unsigned granularity_bits,
                         uint64_t cluster_bytes)
{
    return qimg_div_round_up(qcow2_bitmap_bytes_for(size_bytes, granularity_bits),
                             cluster_bytes);
}

/* Whether an entry's table can be one: its place and its length. */
static inline QimgDecode
qcow2_bitmap_entry_check_table(const Qcow2BitmapEntry *entry, uint64_t cluster_bytes)
{
    if (entry->table_offset == 0 || !qimg_is_aligned(entry->table_offset, cluster_bytes))
        return qimg_decode_broken(QIMG_RULE_BITMAP_TABLE_PLACE, entry->table_offset);
    if (entry->n_table_entries == 0 ||
        entry->n_table_entries > QCOW2_MAX_BITMAP_TABLE_ENTRIES ||
        entry->n_table_entries > QCOW2_MAX_BITMAP_BYTES / cluster_bytes)
        return qimg_decode_broken(QIMG_RULE_BITMAP_TABLE_PLACE, entry->n_table_entries);
    return qimg_decode_ok();
}

/* Checks the fields of an entry but its table; @name has its name_bytes. */
static inline QimgDecode
qcow2_bitmap_entry_check_fields(const Qcow2BitmapEntry *entry, const uint8_t *name)
{
    if (entry->type != QCOW2_BITMAP_TYPE_DIRTY)
        return qimg_decode_broken(QIMG_RULE_BITMAP_TYPE, entry->type);
    if (entry->granularity_bits < QCOW2_MIN_BITMAP_GRANULARITY_BITS ||
        entry->granularity_bits > QCOW2_MAX_BITMAP_GRANULARITY_BITS)
        return qimg_decode_broken(QIMG_RULE_BITMAP_GRANULARITY, entry->granularity_bits);
    if (entry->flags & ~(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO))
        return qimg_decode_broken(QIMG_RULE_BITMAP_FLAGS, entry->flags);
    if (entry->extra_bytes > 0)
        return qimg_decode_broken(QIMG_RULE_BITMAP_EXTRA_DATA, entry->extra_bytes);
    if (entry->name_bytes == 0 || entry->name_bytes > QCOW2_MAX_BITMAP_NAME)
        return qimg_decode_broken(QIMG_RULE_BITMAP_NAME_SIZE, entry->name_bytes);
    if (memchr(name, '\0', entry->name_bytes))
        return qimg_decode_broken(QIMG_RULE_BITMAP_NAME_NUL, 0);
    return qimg_decode_ok();
}

/* Whether the table of an entry with sound fields has the size that a disk of @size_bytes
 * needs. A bitmap in use may have any. */
static inline QimgDecode
qcow2_bitmap_entry_check_size(const Qcow2BitmapEntry *entry, uint64_t size_bytes,
                              uint64_t cluster_bytes)
{
    uint64_t n =
        qcow2_bitmap_entries_for(size_bytes, entry->granularity_bits, cluster_bytes);

    return entry->flags & QCOW2_BITMAP_IN_USE || entry->n_table_entries == n
               ? qimg_decode_ok()
               : qimg_decode_broken(QIMG_RULE_BITMAP_TABLE_SIZE, entry->n_table_entries);
}

#define QCOW2_BITMAP_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

/* Decodes a table's entry: the host offset of its cluster of data, 0 if it has none. */
static inline QimgDecode
qcow2_bitmap_table_entry_decode(uint64_t word, uint64_t cluster_bytes,
                                uint64_t *host_offset_out)
{
    uint64_t host_offset = word & QCOW2_BITMAP_OFFSET_MASK;

    /* Bit 0 is the value of all bits of a missing cluster. */
    if ((word & ~QCOW2_BITMAP_OFFSET_MASK) > (host_offset ? 0u : 1u) ||
        !qimg_is_aligned(host_offset, cluster_bytes))
        return qimg_decode_broken(QIMG_RULE_BITMAP_TABLE, word);
    *host_offset_out = host_offset;
    return qimg_decode_ok();
}
