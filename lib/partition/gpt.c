/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "partition/gpt.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/endian.h"

#define REVISION         0x00010000u
#define CHECKSUM_AT      16u
#define N_LABEL_UNITS    36u
#define REPLACEMENT_CHAR 0xfffdu

typedef struct {
    qimg_le32 a;
    qimg_le16 b;
    qimg_le16 c;
    uint8_t d[8];
} DiskGuid;

typedef struct {
    uint8_t signature[8];
    qimg_le32 revision;
    qimg_le32 header_size;
    qimg_le32 header_crc;
    qimg_le32 reserved;
    qimg_le64 my_lba;
    qimg_le64 alternate_lba;
    qimg_le64 first_usable_lba;
    qimg_le64 last_usable_lba;
    DiskGuid disk_guid;
    qimg_le64 entries_lba;
    qimg_le32 n_entries;
    qimg_le32 entry_size;
    qimg_le32 entries_crc;
} DiskHeader;

typedef struct {
    DiskGuid type;
    DiskGuid guid;
    qimg_le64 first_lba;
    qimg_le64 last_lba;
    qimg_le64 attributes;
    qimg_le16 label[N_LABEL_UNITS];
} DiskEntry;

_Static_assert(sizeof(DiskHeader) == GPT_HEADER_BYTES, "on-disk size");
_Static_assert(sizeof(DiskEntry) == GPT_MIN_ENTRY_BYTES, "on-disk size");

static void
guid_to_text(const DiskGuid *guid, char text[GPT_GUID_TEXT_BYTES])
{
    const uint8_t *d = guid->d;

    snprintf(text, GPT_GUID_TEXT_BYTES,
             "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", qimg_le32_get(guid->a),
             qimg_le16_get(guid->b), qimg_le16_get(guid->c), d[0], d[1], d[2], d[3], d[4],
             d[5], d[6], d[7]);
}

/* CRC-32 of the first @n_bytes of the header, with zeros in place of the checksum. */
static uint32_t
header_checksum(const uint8_t *bytes, size_t n_bytes)
{
    static const uint8_t zeros[4];
    uLong crc = crc32(0, bytes, CHECKSUM_AT);

    crc = crc32(crc, zeros, sizeof zeros);
    return (uint32_t)crc32(crc, bytes + CHECKSUM_AT + sizeof zeros,
                           (uInt)(n_bytes - CHECKSUM_AT - sizeof zeros));
}

static bool
is_good_entry_size(uint32_t entry_bytes)
{
    return entry_bytes >= GPT_MIN_ENTRY_BYTES && entry_bytes <= GPT_MAX_ENTRY_BYTES &&
           (entry_bytes & (entry_bytes - 1)) == 0;
}

GptFault
gpt_decode_header(const uint8_t *bytes, size_t sector_bytes, uint64_t sector,
                  GptHeader *out)
{
    DiskHeader disk;
    uint32_t header_bytes;

    memcpy(&disk, bytes, sizeof disk);
    if (memcmp(disk.signature, "EFI PART", sizeof disk.signature) != 0)
        return GPT_NO_SIGNATURE;
    if (qimg_le32_get(disk.revision) != REVISION)
        return GPT_BAD_REVISION;
    header_bytes = qimg_le32_get(disk.header_size);
    if (header_bytes < GPT_HEADER_BYTES || header_bytes > sector_bytes)
        return GPT_BAD_HEADER_SIZE;
    if (header_checksum(bytes, header_bytes) != qimg_le32_get(disk.header_crc))
        return GPT_BAD_HEADER_CHECKSUM;
    if (qimg_le64_get(disk.my_lba) != sector)
        return GPT_WRONG_SECTOR;
    if (!is_good_entry_size(qimg_le32_get(disk.entry_size)))
        return GPT_BAD_ENTRY_SIZE;
    if (qimg_le32_get(disk.n_entries) > GPT_MAX_ENTRIES)
        return GPT_TOO_MANY_ENTRIES;
    if (qimg_le64_get(disk.first_usable_lba) > qimg_le64_get(disk.last_usable_lba))
        return GPT_BAD_USABLE_RANGE;
    *out = (GptHeader){
        .other_sector = qimg_le64_get(disk.alternate_lba),
        .first_usable_sector = qimg_le64_get(disk.first_usable_lba),
        .last_usable_sector = qimg_le64_get(disk.last_usable_lba),
        .entries_sector = qimg_le64_get(disk.entries_lba),
        .n_entries = qimg_le32_get(disk.n_entries),
        .entry_bytes = qimg_le32_get(disk.entry_size),
        .entries_checksum = qimg_le32_get(disk.entries_crc),
    };
    guid_to_text(&disk.disk_guid, out->disk_guid);
    return GPT_OK;
}

const char *
gpt_fault_text(GptFault fault)
{
    static const char *const texts[] = {
        [GPT_OK] = "is good",
        [GPT_NO_SIGNATURE] = "is missing",
        [GPT_BAD_REVISION] = "is not of revision 1.0",
        [GPT_BAD_HEADER_SIZE] = "has a size of its own that cannot be",
        [GPT_BAD_HEADER_CHECKSUM] = "does not have its checksum",
        [GPT_WRONG_SECTOR] = "says that it lies in another sector",
        [GPT_BAD_ENTRY_SIZE] = "says that entries have a size that cannot be",
        [GPT_TOO_MANY_ENTRIES] = "names more than 1024 entries",
        [GPT_BAD_USABLE_RANGE] = "leaves no sector for partitions",
    };

    return texts[fault];
}

bool
gpt_entries_are_good(const GptHeader *header, const uint8_t *bytes, size_t n_bytes)
{
    return crc32(0, bytes, (uInt)n_bytes) == header->entries_checksum;
}

static void
label_to_utf8(const qimg_le16 *units, char out[GPT_LABEL_BYTES])
{
    for (unsigned i = 0; i < N_LABEL_UNITS; i++) {
        uint32_t c = qimg_le16_get(units[i]);

        if (c == 0)
            break;
        if (c >= 0xd800 && c < 0xe000) {
            uint32_t low = i + 1 < N_LABEL_UNITS ? qimg_le16_get(units[i + 1]) : 0;

            if (c < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
                c = 0x10000 + ((c - 0xd800) << 10 | (low - 0xdc00));
                i++;
            } else {
                c = REPLACEMENT_CHAR; /* half of a surrogate pair */
            }
        }
        out += g_unichar_to_utf8(c, out);
    }
    *out = '\0';
}

bool
gpt_decode_entry(const uint8_t *bytes, GptEntry *out)
{
    static const DiskGuid unused;
    DiskEntry disk;

    memcpy(&disk, bytes, sizeof disk);
    if (memcmp(&disk.type, &unused, sizeof unused) == 0)
        return false;
    guid_to_text(&disk.type, out->type_guid);
    guid_to_text(&disk.guid, out->guid);
    out->first_sector = qimg_le64_get(disk.first_lba);
    out->last_sector = qimg_le64_get(disk.last_lba);
    out->attributes = qimg_le64_get(disk.attributes);
    label_to_utf8(disk.label, out->label);
    return true;
}

const char *
gpt_type_name(const char *type_guid)
{
    static const struct {
        const char *guid;
        const char *name;
    } types[] = {
        {"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"},
        {"21686148-6449-6e6f-744e-656564454649", "BIOS boot"},
        {"024dee41-33e7-11d3-9d69-0008c781f39f", "MBR partition scheme"},
        {"0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux file system"},
        {"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"},
        {"e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"},
        {"a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"},
        {"ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS"},
        {"7ffec5c9-2d00-49b7-8941-3ea10a5586b7", "dm-crypt"},
        {"bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux extended boot"},
        {"933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"},
        {"3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "Linux server data"},
        {"4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"},
        {"44479540-f297-41b2-9af7-d131d5f0458a", "Linux root (x86)"},
        {"b921b045-1df0-41c3-af44-4c6f280d3fae", "Linux root (ARM64)"},
        {"69dad710-2ce4-4e3c-b16c-21a1d49abed3", "Linux root (ARM)"},
        {"8da63339-0007-60c0-c436-083ac8230908", "Linux reserved"},
        {"e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"},
        {"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"},
        {"5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "Microsoft LDM metadata"},
        {"af9b60a0-1431-4f62-bc68-3311714a69ad", "Microsoft LDM data"},
        {"de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"},
        {"e75caf8f-f680-4cee-afa3-b001e56efc2d", "Microsoft storage spaces"},
        {"48465300-0000-11aa-aa11-00306543ecac", "Apple HFS+"},
        {"7c3457ef-0000-11aa-aa11-00306543ecac", "Apple APFS"},
        {"426f6f74-0000-11aa-aa11-00306543ecac", "Apple boot"},
        {"52414944-0000-11aa-aa11-00306543ecac", "Apple RAID"},
        {"53746f72-6167-11aa-aa11-00306543ecac", "Apple Core Storage"},
        {"6a898cc3-1dd2-11b2-99a6-080020736631", "ZFS"},
        {"6a945a3b-1dd2-11b2-99a6-080020736631", "Solaris reserved"},
        {"83bd6b9d-7f41-11dc-be0b-001560b84f0f", "FreeBSD boot"},
        {"516e7cb4-6ecf-11d6-8ff8-00022d09712b", "FreeBSD data"},
        {"516e7cb5-6ecf-11d6-8ff8-00022d09712b", "FreeBSD swap"},
        {"516e7cb6-6ecf-11d6-8ff8-00022d09712b", "FreeBSD UFS"},
        {"516e7cba-6ecf-11d6-8ff8-00022d09712b", "FreeBSD ZFS"},
        {"824cc7a0-36a8-11e3-890a-952519ad3f61", "OpenBSD data"},
        {"49f48d5a-b10e-11dc-b99b-0019d1879648", "NetBSD FFS"},
        {"fe3a2a5d-4f32-41a7-b725-accc3285a309", "ChromeOS kernel"},
        {"3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec", "ChromeOS root"},
        {"aa31e02a-400f-11db-9590-000c2911d1b8", "VMware VMFS"},
        {"9d275380-40ad-11db-bf97-000c2911d1b8", "VMware core dump"},
    };

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].guid, type_guid) == 0)
            return types[i].name;
    return NULL;
}
