/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "partition/mbr.h"

#include <string.h>

#include "base/endian.h"

typedef struct {
    uint8_t boot_flag;
    uint8_t first_chs[3];
    uint8_t type;
    uint8_t last_chs[3];
    qimg_le32 first_sector;
    qimg_le32 n_sectors;
} DiskEntry;

typedef struct {
    uint8_t code[440];
    qimg_le32 disk_number;
    uint8_t unused[2];
    DiskEntry entries[MBR_N_ENTRIES];
    uint8_t signature[2];
} DiskMbr;

_Static_assert(sizeof(DiskEntry) == 16, "on-disk size");
_Static_assert(sizeof(DiskMbr) == MBR_BYTES, "on-disk size");

bool
mbr_decode(const uint8_t bytes[MBR_BYTES], Mbr *out)
{
    DiskMbr disk;

    memcpy(&disk, bytes, sizeof disk);
    if (disk.signature[0] != 0x55 || disk.signature[1] != 0xaa)
        return false;
    out->disk_number = qimg_le32_get(disk.disk_number);
    for (unsigned i = 0; i < MBR_N_ENTRIES; i++)
        out->entries[i] = (MbrEntry){
            .boot_flag = disk.entries[i].boot_flag,
            .type = disk.entries[i].type,
            .first_sector = qimg_le32_get(disk.entries[i].first_sector),
            .n_sectors = qimg_le32_get(disk.entries[i].n_sectors),
        };
    return true;
}

bool
mbr_is_file_system(const uint8_t bytes[MBR_BYTES])
{
    static const struct {
        unsigned at;
        const char *magic;
    } magics[] = {
        {3, "NTFS    "},  {3, "EXFAT   "},  {54, "FAT12   "},
        {54, "FAT16   "}, {54, "FAT     "}, {82, "FAT32   "},
    };
    /* Each boot sector begins with a jump over its parameters. */
    bool begins_with_jump = bytes[0] == 0xe9 || (bytes[0] == 0xeb && bytes[2] == 0x90);

    for (size_t i = 0; begins_with_jump && i < sizeof magics / sizeof magics[0]; i++)
        if (memcmp(bytes + magics[i].at, magics[i].magic, 8) == 0)
            return true;
    return false;
}

bool
mbr_has_good_flags(const Mbr *mbr)
{
    for (unsigned i = 0; i < MBR_N_ENTRIES; i++)
        if (mbr->entries[i].boot_flag & 0x7f)
            return false;
    return true;
}

bool
mbr_entry_is_used(const MbrEntry *entry)
{
    return entry->n_sectors != 0; /* as Linux: of a hybrid ISO the type is 0 */
}

bool
mbr_entry_is_extended(const MbrEntry *entry)
{
    return entry->type == 0x05 || entry->type == 0x0f || entry->type == 0x85;
}

const char *
mbr_type_name(uint8_t type)
{
    static const char *const names[256] = {
        [0x01] = "FAT12",
        [0x04] = "FAT16 (up to 32 MiB)",
        [0x05] = "extended",
        [0x06] = "FAT16",
        [0x07] = "NTFS, exFAT or HPFS",
        [0x0b] = "FAT32 (CHS)",
        [0x0c] = "FAT32",
        [0x0e] = "FAT16 (LBA)",
        [0x0f] = "extended (LBA)",
        [0x11] = "hidden FAT12",
        [0x14] = "hidden FAT16 (up to 32 MiB)",
        [0x16] = "hidden FAT16",
        [0x17] = "hidden NTFS or HPFS",
        [0x1b] = "hidden FAT32 (CHS)",
        [0x1c] = "hidden FAT32",
        [0x1e] = "hidden FAT16 (LBA)",
        [0x27] = "Windows recovery",
        [0x39] = "Plan 9",
        [0x42] = "Windows dynamic disk",
        [0x63] = "Unix System V",
        [0x81] = "Minix",
        [0x82] = "Linux swap",
        [0x83] = "Linux",
        [0x85] = "Linux extended",
        [0x8e] = "Linux LVM",
        [0xa5] = "FreeBSD",
        [0xa6] = "OpenBSD",
        [0xa8] = "macOS UFS",
        [0xa9] = "NetBSD",
        [0xab] = "macOS boot",
        [0xaf] = "macOS HFS",
        [0xbe] = "Solaris boot",
        [0xbf] = "Solaris",
        [0xda] = "data without a file system",
        [0xe8] = "LUKS",
        [0xea] = "Linux extended boot loader",
        [0xeb] = "BeOS",
        [0xee] = "protective entry of a GPT",
        [0xef] = "EFI system",
        [0xfb] = "VMware VMFS",
        [0xfc] = "VMware swap",
        [0xfd] = "Linux RAID",
    };

    return names[type];
}
