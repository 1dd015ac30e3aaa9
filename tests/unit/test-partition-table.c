/* SPDX-License-Identifier: GPL-2.0-or-later */
/* partition/scan.c and its decoders: tables that are sound, damaged in one place each, or
 * missing. A row describes the disk, and the expected partitions and notes. */
#include <errno.h>
#include <string.h>
#include <zlib.h>

#include "base/endian.h"
#include "partition/gpt.h"
#include "partition/list.h"
#include "partition/mbr.h"
#include "partition/scan.h"

#include "test-util.h"

#define DISK_BYTES (8 * QIMG_MIB)

typedef struct {
    uint8_t *bytes;
    uint64_t size_bytes;
    uint64_t bad_start; /* reads that touch these bytes fail */
    uint64_t bad_end;
} Disk;

static QimgErrno
read_disk(void *user, uint64_t offset_bytes, void *buffer, size_t length_bytes)
{
    const Disk *disk = user;

    g_assert_cmpuint(offset_bytes, <=, disk->size_bytes);
    g_assert_cmpuint(length_bytes, <=, disk->size_bytes - offset_bytes);
    if (offset_bytes < disk->bad_end && offset_bytes + length_bytes > disk->bad_start)
        return -EIO;
    memcpy(buffer, disk->bytes + offset_bytes, length_bytes);
    return 0;
}

static void
put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void
put32(uint8_t *at, uint32_t value)
{
    qimg_le32 le = qimg_le32_set(value);

    memcpy(at, &le, sizeof le);
}

static void
put64(uint8_t *at, uint64_t value)
{
    qimg_le64 le = qimg_le64_set(value);

    memcpy(at, &le, sizeof le);
}

static void
put_mbr(uint8_t *sector, unsigned slot, uint8_t type, uint32_t first, uint32_t n)
{
    uint8_t *entry = sector + 446 + 16 * slot;

    entry[4] = type;
    put32(entry + 8, first);
    put32(entry + 12, n);
    put16(sector + 510, 0xaa55);
}

static void
seal_header(uint8_t *header, const uint8_t *entries, size_t n_entry_bytes)
{
    put32(header + 88, (uint32_t)crc32(0, entries, (uInt)n_entry_bytes));
    put32(header + 16, 0);
    put32(header + 16, (uint32_t)crc32(0, header, 92));
}

static void
put_gpt_header(Disk *disk, unsigned sector_bytes, uint64_t sector, uint64_t other,
               uint64_t entries_sector)
{
    uint8_t *header = disk->bytes + sector * sector_bytes;

    memcpy(header, "EFI PART", 8);
    put32(header + 8, 0x10000);
    put32(header + 12, 92);
    put64(header + 24, sector);
    put64(header + 32, other);
    put64(header + 40, 34);
    put64(header + 48, disk->size_bytes / sector_bytes - 34);
    memset(header + 56, 0x11, 16);
    put64(header + 72, entries_sector);
    put32(header + 80, 128);
    put32(header + 84, 128);
    seal_header(header, disk->bytes + entries_sector * sector_bytes, 128 * 128);
}

static void
put_gpt_entry(uint8_t *entry, uint64_t first, uint64_t last, const char *label)
{
    static const uint8_t linux_type[16] = {0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84,
                                           0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69,
                                           0xd8, 0x47, 0x7d, 0xe4};

    memcpy(entry, linux_type, 16);
    memset(entry + 16, 0x22, 16);
    put64(entry + 32, first);
    put64(entry + 40, last);
    for (unsigned i = 0; label[i]; i++)
        put16(entry + 56 + 2 * i, (uint8_t)label[i]);
}

/* A GPT with the partitions 1 (sectors 40 to 49) and 3 (100 to 199). */
static void
put_gpt(Disk *disk, unsigned sector_bytes)
{
    uint64_t n_sectors = disk->size_bytes / sector_bytes;
    uint64_t n_entry_sectors = 128 * 128 / sector_bytes;
    uint8_t *entries = disk->bytes + 2 * sector_bytes;

    put_mbr(disk->bytes, 0, 0xee, 1, (uint32_t)n_sectors - 1);
    put_gpt_entry(entries, 40, 49, "one");
    put_gpt_entry(entries + 2 * 128, 100, 199, "three");
    memcpy(disk->bytes + (n_sectors - 1 - n_entry_sectors) * sector_bytes, entries,
           128 * 128);
    put_gpt_header(disk, sector_bytes, 1, n_sectors - 1, 2);
    put_gpt_header(disk, sector_bytes, n_sectors - 1, 1, n_sectors - 1 - n_entry_sectors);
}

/* Changes the primary table, and corrects its checksums. */
static void
reseal(Disk *disk)
{
    seal_header(disk->bytes + 512, disk->bytes + 1024, 128 * 128);
    seal_header(disk->bytes + DISK_BYTES - 512, disk->bytes + DISK_BYTES - 512 - 16384,
                128 * 128);
}

/* ---- cases ---- */

static void
make_gpt(Disk *disk)
{
    put_gpt(disk, 512);
}

static void
make_gpt_4k(Disk *disk)
{
    put_gpt(disk, 4096);
}

static void
make_gpt_2k(Disk *disk)
{
    put_gpt(disk, 2048);
}

static void
make_gpt_odd_flag(Disk *disk)
{
    put_gpt(disk, 512);
    disk->bytes[446] = 0x01;
}

static void
make_gpt_behind_fat(Disk *disk)
{
    put_gpt(disk, 512);
    memcpy(disk->bytes, "\xeb\x3c\x90", 3);
    memcpy(disk->bytes + 54, "FAT16   ", 8);
}

static void
make_hybrid(Disk *disk)
{
    put_gpt(disk, 512);
    put_mbr(disk->bytes, 1, 0x83, 40, 10);
}

static void
make_bad_primary(Disk *disk)
{
    put_gpt(disk, 512);
    disk->bytes[512 + 60] ^= 1;
}

static void
make_bad_primary_4k(Disk *disk)
{
    put_gpt(disk, 4096);
    disk->bytes[4096 + 60] ^= 1;
}

static void
make_bad_entries(Disk *disk)
{
    put_gpt(disk, 512);
    disk->bytes[1024 + 40] ^= 1;
}

static void
make_bad_copy(Disk *disk)
{
    put_gpt(disk, 512);
    disk->bytes[DISK_BYTES - 512 + 60] ^= 1;
}

static void
make_bad_both(Disk *disk)
{
    make_bad_copy(disk);
    disk->bytes[512 + 60] ^= 1;
}

static void
make_bad_both_hybrid(Disk *disk)
{
    make_bad_both(disk);
    put_mbr(disk->bytes, 1, 0x83, 40, 10);
}

static void
make_no_signature(Disk *disk)
{
    put_gpt(disk, 512);
    memset(disk->bytes + 512, 0, 512);
}

static void
make_unreadable_primary(Disk *disk)
{
    put_gpt(disk, 512);
    disk->bad_start = 512;
    disk->bad_end = 1024;
}

static void
make_unreadable_first(Disk *disk)
{
    put_gpt(disk, 512);
    disk->bad_end = 512;
}

static void
make_blank_first(Disk *disk)
{
    put_gpt(disk, 512);
    memset(disk->bytes, 0, 512);
}

static void
make_copy_alone(Disk *disk)
{
    put_gpt(disk, 512);
    memset(disk->bytes, 0, 1024);
}

static void
make_stale(Disk *disk)
{
    put_gpt(disk, 512);
    put_mbr(disk->bytes, 0, 0x83, 8, 8);
}

static void
make_grown(Disk *disk)
{
    disk->size_bytes -= QIMG_MIB;
    put_gpt(disk, 512);
    disk->size_bytes += QIMG_MIB;
}

static void
make_many_entries(Disk *disk)
{
    put_gpt(disk, 512);
    put32(disk->bytes + 512 + 80, 1025);
    reseal(disk);
}

static void
make_odd_entry_size(Disk *disk)
{
    put_gpt(disk, 512);
    put32(disk->bytes + 512 + 84, 192);
    reseal(disk);
}

static void
make_far_entries(Disk *disk)
{
    put_gpt(disk, 512);
    put64(disk->bytes + 512 + 72, UINT64_MAX / 512);
    reseal(disk);
}

static void
make_gpt_ranges(Disk *disk)
{
    uint8_t *entries = disk->bytes + 1024;

    put_gpt(disk, 512);
    put_gpt_entry(entries, 150, 160, "overlaps");
    put_gpt_entry(entries + 3 * 128, 50, 49, "backwards");
    put_gpt_entry(entries + 4 * 128, 16384, 16400, "beyond");
    put_gpt_entry(entries + 5 * 128, 16000, 16393, "cut");
    put_gpt_entry(entries + 6 * 128, 0, UINT64_MAX, "all");
    put_gpt_entry(entries + 7 * 128, UINT64_MAX, UINT64_MAX, "last");
    memcpy(disk->bytes + DISK_BYTES - 512 - 16384, entries, 16384);
    reseal(disk);
}

static void
make_mbr(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 2048, 2048);
    put_mbr(disk->bytes, 3, 0x07, 8192, 8192);
    disk->bytes[446] = 0x80;
}

static void
make_mbr_ranges(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 2048, 4096);
    put_mbr(disk->bytes, 1, 0x83, 4096, 4096);
    put_mbr(disk->bytes, 2, 0x83, 16384, 1);
    put_mbr(disk->bytes, 3, 0x83, 16000, UINT32_MAX);
}

static void
make_mbr_4k(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 256, 256);
    disk->bytes[256 * 4096 + 1080] = 0x53;
}

static void
make_mbr_2k(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 256, 256);
    disk->bytes[256 * 2048 + 1080] = 0x53;
}

/* As xorriso makes them for hybrid ISO images. */
static void
make_hybrid_iso(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x00, 0, 16000);
    put_mbr(disk->bytes, 1, 0xef, 400, 64);
    disk->bytes[446] = 0x80;
}

static void
make_mbr_small_part(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 256, 256);
    disk->bytes[256 * 512 + 1080] = 0x53;
    disk->bytes[256 * 4096 + 1080] = 0x53;
}

/* Logical partitions 5 to 7, the second link empty. */
static void
make_logical(Disk *disk)
{
    uint8_t *first = disk->bytes + 4096 * 512, *second = first + 1024 * 512;
    uint8_t *third = first + 2048 * 512;

    put_mbr(disk->bytes, 0, 0x83, 2048, 1024);
    put_mbr(disk->bytes, 1, 0x05, 4096, 8192);
    put_mbr(first, 0, 0x82, 63, 100);
    put_mbr(first, 1, 0x05, 1024, 1024);
    put_mbr(second, 1, 0x05, 2048, 1024);
    put_mbr(third, 0, 0x83, 63, 100);
    put_mbr(third, 1, 0x83, 163, 100);
}

static void
make_logical_loop(Disk *disk)
{
    make_logical(disk);
    put_mbr(disk->bytes + (4096 + 2048) * 512, 2, 0x05, 1024, 1024);
}

static void
make_logical_self(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x0f, 4096, 8192);
    put_mbr(disk->bytes + 4096 * 512, 1, 0x05, 0, 8192);
}

static void
make_logical_outside(Disk *disk)
{
    make_logical(disk);
    put_mbr(disk->bytes + (4096 + 2048) * 512, 2, 0x05, 8192, 1024);
    put_mbr(disk->bytes + (4096 + 2048) * 512, 3, 0x83, 8192, 1024); /* garbage */
}

static void
make_logical_broken(Disk *disk)
{
    make_logical(disk);
    disk->bytes[(4096 + 1024) * 512 + 510] = 0;
}

static void
make_logical_unreadable(Disk *disk)
{
    make_logical(disk);
    disk->bad_start = (4096 + 1024) * 512;
    disk->bad_end = disk->bad_start + 1;
}

static void
make_logical_many(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x0f, 1024, 15000);
    for (unsigned i = 0; i < 300; i++) {
        uint8_t *link = disk->bytes + (1024 + 4 * i) * 512;

        put_mbr(link, 0, 0x83, 1, 2);
        put_mbr(link, 1, 0x05, 4 * i + 4, 3);
    }
}

static void
make_fat(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 2048, 2048);
    memcpy(disk->bytes, "\xeb\x3c\x90mkfs.fat", 11);
    memcpy(disk->bytes + 54, "FAT16   ", 8);
}

static void
make_ntfs(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 2048, 2048);
    memcpy(disk->bytes, "\xeb\x52\x90NTFS    ", 11);
}

static void
make_bad_flags(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 2048, 2048);
    disk->bytes[446 + 16] = 'x';
}

static void
make_empty_mbr(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0, 0, 0);
}

static void
make_all_beyond(Disk *disk)
{
    put_mbr(disk->bytes, 0, 0x83, 20000, 2048);
}

static void
make_nothing(Disk *disk)
{
    (void)disk;
}

#define P(number, start, length) #number ":" #start "+" #length " "

static const struct {
    const char *name;
    void (*make)(Disk *disk);
    const char *partitions; /* numbers, starts and lengths in sectors; NULL: no table */
    unsigned sector_bytes;
    const char *notes; /* joined by ";" */
} cases[] = {
    {"gpt", make_gpt, P(1, 40, 10) P(3, 100, 100), 512, ""},
    {"gpt-4k", make_gpt_4k, P(1, 40, 10) P(3, 100, 100), 4096, ""},
    {"gpt-2k", make_gpt_2k, P(1, 40, 10) P(3, 100, 100), 2048, ""},
    {"gpt-odd-flag", make_gpt_odd_flag, P(1, 40, 10) P(3, 100, 100), 512, ""},
    {"gpt-behind-fat", make_gpt_behind_fat, P(1, 40, 10) P(3, 100, 100), 512, ""},
    {"hybrid-iso", make_hybrid_iso, P(1, 0, 16000) P(2, 400, 64), 512,
     "partitions 1 and 2 overlap"},
    {"mbr-2k", make_mbr_2k, P(1, 256, 256), 2048,
     "sectors are taken to have 2048 bytes, by where data lie: the table does not say "
     "it"},
    {"hybrid", make_hybrid, P(1, 40, 10) P(3, 100, 100), 512,
     "the disk has a hybrid table: the MBR has 1 entries besides, which are not used"},
    {"bad-primary", make_bad_primary, P(1, 40, 10) P(3, 100, 100), 512,
     "the GPT's header does not have its checksum: its copy is used"},
    {"bad-primary-4k", make_bad_primary_4k, P(1, 40, 10) P(3, 100, 100), 4096,
     "the GPT's header does not have its checksum: its copy is used"},
    {"bad-entries", make_bad_entries, P(1, 40, 10) P(3, 100, 100), 512,
     "the GPT's header has entries that do not have their checksum: its copy is used"},
    {"no-signature", make_no_signature, P(1, 40, 10) P(3, 100, 100), 512,
     "the GPT's header is missing: its copy is used"},
    {"unreadable-primary", make_unreadable_primary, P(1, 40, 10) P(3, 100, 100), 512,
     "the GPT's header cannot be read: its copy is used"},
    {"bad-copy", make_bad_copy, P(1, 40, 10) P(3, 100, 100), 512,
     "the copy of the GPT's header does not have its checksum"},
    {"bad-both", make_bad_both, "", 512,
     "the GPT's header does not have its checksum, nor can its copy be used"},
    {"bad-both-hybrid", make_bad_both_hybrid, P(2, 40, 10), 512,
     "the GPT's header does not have its checksum, nor can its copy be used"},
    {"many-entries", make_many_entries, P(1, 40, 10) P(3, 100, 100), 512,
     "the GPT's header names more than 1024 entries: its copy is used"},
    {"odd-entry-size", make_odd_entry_size, P(1, 40, 10) P(3, 100, 100), 512,
     "the GPT's header says that entries have a size that cannot be: its copy is used"},
    {"far-entries", make_far_entries, P(1, 40, 10) P(3, 100, 100), 512,
     "the GPT's header has its entries beyond the disk's end: its copy is used"},
    {"unreadable-first", make_unreadable_first, P(1, 40, 10) P(3, 100, 100), 512,
     "the first sector cannot be read"},
    {"blank-first", make_blank_first, P(1, 40, 10) P(3, 100, 100), 512,
     "the first sector is blank and does not protect the GPT"},
    {"copy-alone", make_copy_alone, NULL, 512, ""},
    {"stale", make_stale, P(1, 8, 8), 512, ""},
    {"grown", make_grown, P(1, 40, 10) P(3, 100, 100), 512,
     "the copy of the GPT does not lie at the disk's end: the disk has another size than "
     "when it was partitioned"},
    {"gpt-ranges", make_gpt_ranges,
     P(1, 150, 11) P(3, 100, 100) P(6, 16000, 384) P(7, 0, 16384), 512,
     "partition 4 ends before it begins: left out;"
     "partition 5 leaves the range that the table has for partitions;"
     "partition 5 begins beyond the disk's end: left out;"
     "partition 6 leaves the range that the table has for partitions;"
     "partition 6 ends beyond the disk's end: cut there;"
     "partition 7 leaves the range that the table has for partitions;"
     "partition 7 ends beyond the disk's end: cut there;"
     "partition 8 leaves the range that the table has for partitions;"
     "partition 8 begins beyond the disk's end: left out;"
     "partitions 7 and 3 overlap;"
     "partitions 7 and 1 overlap;"
     "partitions 7 and 6 overlap"},
    {"mbr", make_mbr, P(1, 2048, 2048) P(4, 8192, 8192), 512, ""},
    {"mbr-ranges", make_mbr_ranges, P(1, 2048, 4096) P(2, 4096, 4096) P(4, 16000, 384),
     512,
     "partition 3 begins beyond the disk's end: left out;"
     "partition 4 ends beyond the disk's end: cut there;"
     "partitions 1 and 2 overlap"},
    {"mbr-4k", make_mbr_4k, P(1, 256, 256), 4096,
     "sectors are taken to have 4096 bytes, by where data lie: the table does not say "
     "it"},
    {"mbr-small-part", make_mbr_small_part, P(1, 256, 256), 512, ""},
    {"logical", make_logical,
     P(1, 2048, 1024) "x" P(2, 4096, 8192) P(5, 4159, 100) P(6, 6207, 100)
         P(7, 6307, 100),
     512, ""},
    {"logical-loop", make_logical_loop,
     P(1, 2048, 1024) "x" P(2, 4096, 8192) P(5, 4159, 100) P(6, 6207, 100)
         P(7, 6307, 100),
     512, "the chain of logical partitions has a loop: the rest is ignored"},
    {"logical-self", make_logical_self, "x" P(1, 4096, 8192), 512,
     "the chain of logical partitions has a loop: the rest is ignored"},
    {"logical-outside", make_logical_outside,
     P(1, 2048, 1024) "x" P(2, 4096, 8192) P(5, 4159, 100) P(6, 6207, 100)
         P(7, 6307, 100),
     512,
     "the chain of logical partitions leaves the extended partition: the rest is "
     "ignored"},
    {"logical-broken", make_logical_broken,
     P(1, 2048, 1024) "x" P(2, 4096, 8192) P(5, 4159, 100), 512,
     "the chain of logical partitions is broken at byte 2621440"},
    {"logical-unreadable", make_logical_unreadable,
     P(1, 2048, 1024) "x" P(2, 4096, 8192) P(5, 4159, 100), 512,
     "the chain of logical partitions cannot be read at byte 2621440"},
    {"fat", make_fat, NULL, 512, ""},
    {"ntfs", make_ntfs, NULL, 512, ""},
    {"bad-flags", make_bad_flags, NULL, 512, ""},
    {"empty-mbr", make_empty_mbr, NULL, 512, ""},
    {"all-beyond", make_all_beyond, NULL, 512, ""},
    {"nothing", make_nothing, NULL, 512, ""},
};

static Disk
new_disk(void)
{
    return (Disk){.bytes = g_malloc0(DISK_BYTES), .size_bytes = DISK_BYTES};
}

static QimgPartitions *
read_table(Disk *disk)
{
    const PartitionSource source = {read_disk, disk, disk->size_bytes};

    return partition_scan(&source);
}

static void
test_case(gconstpointer data)
{
    unsigned place = GPOINTER_TO_UINT(data);
    Disk disk = new_disk();
    g_autoptr(QimgPartitions) list = NULL;
    g_autoptr(GString) found = g_string_new("");
    g_autofree char *notes = NULL;

    cases[place].make(&disk);
    list = read_table(&disk);
    g_free(disk.bytes);
    if (!cases[place].partitions) {
        g_assert_null(list);
        return;
    }
    g_assert_nonnull(list);
    g_assert_cmpuint(list->sector_bytes, ==, cases[place].sector_bytes);
    for (unsigned i = 0; i < qimg_partitions_get_n(list); i++) {
        const QimgPartition *p = qimg_partitions_get(list, i);

        g_assert_cmpuint(p->start_bytes % list->sector_bytes, ==, 0);
        g_assert_cmpuint(p->length_bytes % list->sector_bytes, ==, 0);
        g_string_append_printf(found, "%s%u:%u+%u ", p->is_extended ? "x" : "", p->number,
                               (unsigned)(p->start_bytes / list->sector_bytes),
                               (unsigned)(p->length_bytes / list->sector_bytes));
    }
    g_assert_null(qimg_partitions_get(list, qimg_partitions_get_n(list)));
    g_assert_cmpstr(found->str, ==, cases[place].partitions);
    g_ptr_array_add(list->notes, NULL);
    notes = g_strjoinv(";", (char **)list->notes->pdata);
    g_ptr_array_remove_index(list->notes, list->notes->len - 1);
    g_assert_cmpstr(notes, ==, cases[place].notes);
}

static void
test_too_many_logical(void)
{
    Disk disk = new_disk();
    g_autoptr(QimgPartitions) list = NULL;

    make_logical_many(&disk);
    list = read_table(&disk);
    g_free(disk.bytes);
    g_assert_cmpuint(qimg_partitions_get_n(list), ==, 1 + 251);
    g_assert_cmpuint(qimg_partitions_get(list, 251)->number, ==, 255);
    g_assert_cmpuint(list->notes->len, ==, 1);
}

static void
test_high_numbers(void)
{
    Disk disk = new_disk();
    g_autoptr(QimgPartitions) list = NULL;
    uint8_t *entries = disk.bytes + 1024;

    put_gpt(&disk, 512);
    put_gpt_entry(entries + 254 * 128, 600, 609, "");
    put_gpt_entry(entries + 255 * 128, 610, 619, "");
    put32(disk.bytes + 512 + 80, 256);
    seal_header(disk.bytes + 512, entries, 256 * 128);
    list = read_table(&disk);
    g_free(disk.bytes);
    g_assert_cmpuint(qimg_partitions_get_n(list), ==, 3);
    g_assert_cmpuint(qimg_partitions_get(list, 2)->number, ==, 255);
    g_assert_cmpstr(list->notes->pdata[0], ==,
                    "the GPT and its copy have different entries: the first one counts");
    g_assert_cmpstr(list->notes->pdata[1], ==,
                    "partition 256 has a number above 255: left out");
}

/* The notes about a hostile table are bounded. */
static void
test_many_notes(void)
{
    Disk disk = new_disk();
    g_autoptr(QimgPartitions) list = NULL;

    put_gpt(&disk, 512);
    for (unsigned i = 0; i < 128; i++)
        put_gpt_entry(disk.bytes + 1024 + 128 * i, 100, 200 + i, "");
    reseal(&disk);
    list = read_table(&disk);
    g_free(disk.bytes);
    g_assert_cmpuint(qimg_partitions_get_n(list), ==, 128);
    g_assert_cmpuint(list->notes->len, ==, 65);
}

static void
test_small_disks(void)
{
    for (uint64_t size_bytes = 0; size_bytes < 3 * 4096; size_bytes += 256) {
        Disk disk = new_disk();
        g_autoptr(QimgPartitions) list = NULL;

        put_gpt(&disk, 512);
        disk.bytes = g_realloc(disk.bytes, size_bytes > 0 ? size_bytes : 1);
        disk.size_bytes = size_bytes;
        list = read_table(&disk);
        g_assert_true((list != NULL) == (size_bytes >= 512));
        g_free(disk.bytes);
    }
}

static void
test_facts_of_gpt(void)
{
    Disk disk = new_disk();
    g_autoptr(QimgPartitions) list = NULL;
    const QimgPartition *p;
    g_autofree char *json = NULL;

    put_gpt(&disk, 512);
    put64(disk.bytes + 1024 + 48, UINT64_C(5) | UINT64_C(1) << 60 | UINT64_C(1) << 50);
    memcpy(disk.bytes + DISK_BYTES - 512 - 16384, disk.bytes + 1024, 16384);
    reseal(&disk);
    list = read_table(&disk);
    g_free(disk.bytes);
    p = qimg_partitions_get(list, 0);
    g_assert_cmpstr(p->type, ==, "0fc63daf-8483-4772-8e79-3d69d8477de4");
    g_assert_cmpstr(p->type_name, ==, "Linux file system");
    g_assert_cmpstr(p->label, ==, "one");
    g_assert_cmpstr(p->uuid, ==, "22222222-2222-2222-2222-222222222222");
    g_assert_cmpstr(list->disk_id, ==, "11111111-1111-1111-1111-111111111111");
    json = qimg_partitions_json(list, NULL);
    g_assert_nonnull(strstr(json, "\"required\",\n                \"legacy-bootable\",\n"
                                  "                \"bit-50\",\n"
                                  "                \"read-only\"\n"));
    g_assert_nonnull(strstr(json, "\"file\": \"3.raw\""));
    g_assert_nonnull(strstr(json, "\"table\": \"gpt\""));
}

static void
test_facts_of_mbr(void)
{
    Disk disk = new_disk();
    g_autoptr(QimgPartitions) list = NULL;
    const QimgPartition *p;
    g_autofree char *json = NULL;

    make_logical(&disk);
    disk.bytes[446] = 0x80;
    put32(disk.bytes + 440, 0x12ab34cd);
    list = read_table(&disk);
    g_free(disk.bytes);
    p = qimg_partitions_get(list, 0);
    g_assert_true(p->is_bootable);
    g_assert_cmpstr(p->type, ==, "0x83");
    g_assert_cmpstr(p->type_name, ==, "Linux");
    g_assert_cmpstr(p->uuid, ==, "12ab34cd-01");
    g_assert_cmpstr(qimg_partitions_get(list, 2)->uuid, ==, "12ab34cd-05");
    g_assert_cmpstr(list->disk_id, ==, "12ab34cd");
    json = qimg_partitions_json(list, NULL);
    g_assert_null(strstr(json, "\"2.raw\"")); /* an extended partition is no file */
    g_assert_nonnull(strstr(json, "\"6.raw\""));
}

static void
test_labels(void)
{
    static const struct {
        uint16_t units[37];
        const char *text;
    } rows[] = {
        {{0}, ""},
        {{'a', 0, 'b'}, "a"},
        {{0xe4, 0x20ac}, "\xc3\xa4\xe2\x82\xac"},
        {{0xd83d, 0xde00, 'x'}, "\xf0\x9f\x98\x80x"},
        {{0xd83d, 'x'}, "\xef\xbf\xbdx"},
        {{0xde00, 0xd83d}, "\xef\xbf\xbd\xef\xbf\xbd"},
        {{[0 ... 34] = 'y', 0xd83d}, "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\xef\xbf\xbd"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint8_t entry[128] = {1};
        GptEntry found;

        for (unsigned j = 0; j < 36; j++)
            put16(entry + 56 + 2 * j, rows[i].units[j]);
        g_assert_true(gpt_decode_entry(entry, &found));
        g_assert_cmpstr(found.label, ==, rows[i].text);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/partition-table/%s", cases[i].name);

        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_case);
    }
    g_test_add_func("/partition-table/too-many-logical", test_too_many_logical);
    g_test_add_func("/partition-table/high-numbers", test_high_numbers);
    g_test_add_func("/partition-table/many-notes", test_many_notes);
    g_test_add_func("/partition-table/small-disks", test_small_disks);
    g_test_add_func("/partition-table/facts-of-gpt", test_facts_of_gpt);
    g_test_add_func("/partition-table/facts-of-mbr", test_facts_of_mbr);
    g_test_add_func("/partition-table/labels", test_labels);
    return g_test_run();
}
