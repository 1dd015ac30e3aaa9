/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The partition table in the first sector of a disk (MBR), and the same structure at the
 * start of each logical partition (EBR). Pure; any thread.
 *
 * The last 66 bytes of the 512:
 *
 *   0  16   four entries: boot flag, CHS (3), type, CHS (3), first sector, sectors
 *   64  2   55 AA
 *
 * and, in an MBR, the disk's number at 440. Sectors are those of the disk, of 512 or 4096
 * bytes: the table does not say. Boot sectors of file systems end in 55 AA, too. */
#pragma once

#include "base/types.h"

#define MBR_BYTES     512u
#define MBR_N_ENTRIES 4u

#define MBR_TYPE_GPT 0xeeu /* the disk has a GPT: this entry protects it */

typedef struct {
    uint8_t boot_flag; /* 0x00 or 0x80 if valid */
    uint8_t type;
    uint32_t first_sector; /* of the disk, or as mbr_entry_is_extended says */
    uint32_t n_sectors;
} MbrEntry;

typedef struct {
    uint32_t disk_number;
    MbrEntry entries[MBR_N_ENTRIES];
} Mbr;

/* Decodes the sector; false without the signature 55 AA. */
bool mbr_decode(const uint8_t bytes[MBR_BYTES], Mbr *out);

/* Whether the sector is the boot sector of a file system (FAT, exFAT, NTFS), which has
 * code or text in place of a table. */
bool mbr_is_file_system(const uint8_t bytes[MBR_BYTES]);

/* Whether all boot flags are valid for a table. Other sectors ending in 55 AA hardly ever
 * pass. */
bool mbr_has_good_flags(const Mbr *mbr);

/* Whether the entry is in use. */
bool mbr_entry_is_used(const MbrEntry *entry);

/* Whether the entry is the region of a chain of logical partitions (in an MBR), or the
 * chain's next link (in an EBR: counted from the start of the whole chain). */
bool mbr_entry_is_extended(const MbrEntry *entry);

/* The name of a type, static; NULL if not well known. */
const char *mbr_type_name(uint8_t type);
