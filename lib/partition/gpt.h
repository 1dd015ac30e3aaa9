/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GUID partition tables. Spec: UEFI, chapter "GUID Partition Table (GPT) Disk Layout".
 * Pure; any thread.
 *
 * The header is in sector 1, its copy in the last sector of the disk; each names its own
 * array of entries, and has checksums of itself and of that array. All numbers are
 * little-endian, including a GUID's first three parts:
 *
 *   0  8  "EFI PART"          40  8  first usable sector
 *   8  4  revision 1.0        48  8  last usable sector
 *   12 4  size, 92 or more    56 16  GUID of the disk
 *   16 4  CRC-32 of the size  72  8  sector of the entries
 *         bytes, this one 0   80  4  number of entries
 *   20 4  0                   84  4  bytes of one: 128 * 2^n
 *   24 8  this sector         88  4  CRC-32 of all entries
 *   32 8  the other header's */
#pragma once

#include "base/types.h"

#define GPT_HEADER_BYTES 92u
/* Tools make 128 entries of 128 bytes; these limits are 8 and 32 times as much. */
#define GPT_MAX_ENTRIES     1024u
#define GPT_MIN_ENTRY_BYTES 128u
#define GPT_MAX_ENTRY_BYTES 4096u

#define GPT_GUID_TEXT_BYTES 37u /* with the NUL */
/* 36 UTF-16 units of at most 3 bytes each in UTF-8, and the NUL. */
#define GPT_LABEL_BYTES (36u * 3u + 1u)

typedef enum {
    GPT_OK,
    GPT_NO_SIGNATURE,
    GPT_BAD_REVISION,
    GPT_BAD_HEADER_SIZE,
    GPT_BAD_HEADER_CHECKSUM,
    GPT_WRONG_SECTOR,
    GPT_BAD_ENTRY_SIZE,
    GPT_TOO_MANY_ENTRIES,
    GPT_BAD_USABLE_RANGE,
} GptFault;

typedef struct {
    uint64_t other_sector;
    uint64_t first_usable_sector;
    uint64_t last_usable_sector;
    uint64_t entries_sector;
    uint32_t n_entries;
    uint32_t entry_bytes;
    uint32_t entries_checksum;
    char disk_guid[GPT_GUID_TEXT_BYTES];
} GptHeader;

typedef struct {
    char type_guid[GPT_GUID_TEXT_BYTES]; /* lower case */
    char guid[GPT_GUID_TEXT_BYTES];
    uint64_t first_sector;
    uint64_t last_sector; /* inclusive */
    uint64_t attributes;
    char label[GPT_LABEL_BYTES]; /* UTF-8; invalid characters are U+FFFD */
} GptEntry;

/* Decodes the header at @bytes, in sector number @sector of the disk, of @sector_bytes
 * (at least GPT_HEADER_BYTES). *@out is written only for GPT_OK. The caller must still
 * compare the entries' place and the usable range with the disk's size. */
GptFault gpt_decode_header(const uint8_t *bytes, size_t sector_bytes, uint64_t sector,
                           GptHeader *out);

/* Static text to follow "the header ". */
const char *gpt_fault_text(GptFault fault);

/* Whether the @n_bytes (n_entries * entry_bytes) at @bytes match the header's
 * checksum. */
bool gpt_entries_are_good(const GptHeader *header, const uint8_t *bytes, size_t n_bytes);

/* Decodes the entry at @bytes, at least GPT_MIN_ENTRY_BYTES; false if it is unused. The
 * caller must still compare its sectors with the disk. */
bool gpt_decode_entry(const uint8_t *bytes, GptEntry *out);

/* The name of a type, static; NULL if not well known. */
const char *gpt_type_name(const char *type_guid);
