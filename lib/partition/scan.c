/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finds and reads partition tables. A GPT counts if the first sector announces it, else a
 * table in that sector. Lists entries confirmed by checksums and the disk's size; notes
 * omitted, cut and doubtful ones with the reason. Numbers are those of Linux. */
#include "partition/scan.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/checked.h"
#include "partition/gpt.h"
#include "partition/list.h"
#include "partition/mbr.h"
#include "partition/others.h"

#define FIRST_LOGICAL 5u
#define MAX_LOGICAL   (QIMG_MAX_PARTITION_NUMBER - FIRST_LOGICAL + 1)
#define MAX_NOTES     64u
#define SMALL_SECTOR  512u
#define LARGE_SECTOR  4096u
/* Every file system stores non-zero bytes within this distance. */
#define GUESS_LOOKS_BYTES (68 * QIMG_KIB)

static const unsigned sector_sizes[] = {SMALL_SECTOR, 1024, 2048, LARGE_SECTOR};

typedef struct {
    const PartitionSource *source;
    QimgPartitions *list;
} Scan;

static void scan_note(Scan *scan, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void
scan_note(Scan *scan, const char *format, ...)
{
    GPtrArray *notes = scan->list->notes;
    va_list args;

    if (notes->len > MAX_NOTES)
        return;
    if (notes->len == MAX_NOTES) {
        g_ptr_array_add(notes, g_strdup("and more of that kind"));
        return;
    }
    va_start(args, format);
    g_ptr_array_add(notes, g_strdup_vprintf(format, args));
    va_end(args);
}

static QimgErrno
read_at(const Scan *scan, uint64_t offset_bytes, void *buffer, size_t length_bytes)
{
    return scan->source->read(scan->source->user, offset_bytes, buffer, length_bytes);
}

/* Adds a partition of @n_sectors from @first_sector on (numbers of the table), cut at the
 * disk's end. NULL, with a note, if none of it is on the disk. */
static QimgPartition *
add(Scan *scan, unsigned number, uint64_t first_sector, uint64_t n_sectors)
{
    uint64_t size_bytes = scan->source->size_bytes;
    unsigned sector_bytes = scan->list->sector_bytes;
    uint64_t start, length;
    QimgPartition item = {.struct_bytes = sizeof item, .number = number};

    if (!qimg_mul_u64(first_sector, sector_bytes, &start) || start >= size_bytes) {
        scan_note(scan, "partition %u begins beyond the disk's end: left out", number);
        return NULL;
    }
    if (!qimg_mul_u64(n_sectors, sector_bytes, &length) || length > size_bytes - start) {
        length = qimg_align_down(size_bytes - start, sector_bytes);
        scan_note(scan, "partition %u ends beyond the disk's end: cut there", number);
    }
    if (length == 0)
        return NULL;
    item.start_bytes = start;
    item.length_bytes = length;
    g_array_append_val(scan->list->items, item);
    return &g_array_index(scan->list->items, QimgPartition, scan->list->items->len - 1);
}

/* ---- GPT ---- */

typedef struct {
    GptHeader header;
    unsigned sector_bytes;
    uint8_t *entries; /* owned */
} GptTable;

static const char *
load_entries(const Scan *scan, GptTable *table)
{
    uint64_t start, n_bytes;

    if (!qimg_mul_u64(table->header.n_entries, table->header.entry_bytes, &n_bytes) ||
        !qimg_mul_u64(table->header.entries_sector, table->sector_bytes, &start) ||
        !qimg_range_fits(start, n_bytes, scan->source->size_bytes))
        return "has its entries beyond the disk's end";
    table->entries = g_try_malloc(n_bytes > 0 ? n_bytes : 1);
    if (!table->entries)
        return "has entries for which there is no memory";
    if (read_at(scan, start, table->entries, n_bytes))
        return "has entries that cannot be read";
    if (!gpt_entries_are_good(&table->header, table->entries, n_bytes))
        return "has entries that do not have their checksum";
    return NULL;
}

static void
clear_table(GptTable *table)
{
    g_clear_pointer(&table->entries, g_free);
}

/* Loads the header in @sector, and its entries. NULL on success; else the fault, static,
 * to follow "the header ". *@has_header_out: at least the header is valid, and in
 * *@table, which must be cleared in any case. */
static const char *
load_gpt(const Scan *scan, unsigned sector_bytes, uint64_t sector, GptTable *table,
         bool *has_header_out)
{
    uint8_t bytes[LARGE_SECTOR];
    uint64_t start;
    GptFault fault;

    *table = (GptTable){.sector_bytes = sector_bytes};
    *has_header_out = false;
    if (!qimg_mul_u64(sector, sector_bytes, &start) ||
        !qimg_range_fits(start, sector_bytes, scan->source->size_bytes))
        return "would lie beyond the disk's end";
    if (read_at(scan, start, bytes, sector_bytes))
        return "cannot be read";
    fault = gpt_decode_header(bytes, sector_bytes, sector, &table->header);
    if (fault)
        return gpt_fault_text(fault);
    *has_header_out = true;
    return load_entries(scan, table);
}

/* Compares the valid primary table with its copy, and notes a bad copy. */
static void
check_copy(Scan *scan, const GptTable *primary)
{
    uint64_t n_sectors = scan->source->size_bytes / primary->sector_bytes;
    GptTable copy;
    bool has_header;
    const char *fault = load_gpt(scan, primary->sector_bytes,
                                 primary->header.other_sector, &copy, &has_header);

    if (fault)
        scan_note(scan, "the copy of the GPT's header %s", fault);
    else if (copy.header.entries_checksum != primary->header.entries_checksum)
        scan_note(scan,
                  "the GPT and its copy have different entries: the first one counts");
    if (primary->header.other_sector != n_sectors - 1)
        scan_note(scan,
                  "the copy of the GPT does not lie at the disk's end: the disk has "
                  "another size than when it was partitioned");
    clear_table(&copy);
}

/* Loads the copy if the primary table is damaged: from the place named by the primary
 * header, if that is valid, or from the disk's end. */
static bool
load_copy(Scan *scan, uint64_t named_sector, unsigned named_sector_bytes, GptTable *table)
{
    bool has_header;

    if (named_sector_bytes > 0) {
        if (!load_gpt(scan, named_sector_bytes, named_sector, table, &has_header))
            return true;
        clear_table(table);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sector_sizes); i++) {
        uint64_t n_sectors = scan->source->size_bytes / sector_sizes[i];

        if (n_sectors > 1 &&
            !load_gpt(scan, sector_sizes[i], n_sectors - 1, table, &has_header))
            return true;
        if (n_sectors > 1)
            clear_table(table);
    }
    return false;
}

/* Finds the GPT; @may_use_copy: also if only its copy is valid. */
static bool
find_gpt(Scan *scan, bool may_use_copy, GptTable *table)
{
    uint64_t named_sector = 0;
    unsigned named_sector_bytes = 0;
    const char *fault = gpt_fault_text(GPT_NO_SIGNATURE);

    for (size_t i = 0; i < G_N_ELEMENTS(sector_sizes); i++) {
        bool has_header;
        const char *this_fault = load_gpt(scan, sector_sizes[i], 1, table, &has_header);

        if (!this_fault) {
            check_copy(scan, table);
            return true;
        }
        if (has_header) {
            named_sector = table->header.other_sector;
            named_sector_bytes = sector_sizes[i];
        }
        /* With the wrong sector size there is mostly no header at all. */
        if (i == 0 || strcmp(fault, gpt_fault_text(GPT_NO_SIGNATURE)) == 0)
            fault = this_fault;
        clear_table(table);
    }
    if (!may_use_copy)
        return false;
    if (load_copy(scan, named_sector, named_sector_bytes, table)) {
        scan_note(scan, "the GPT's header %s: its copy is used", fault);
        return true;
    }
    scan_note(scan, "the GPT's header %s, nor can its copy be used", fault);
    return false;
}

static void
add_gpt_entry(Scan *scan, const GptTable *table, unsigned number, const GptEntry *entry)
{
    QimgPartition *item;

    if (entry->first_sector > entry->last_sector) {
        scan_note(scan, "partition %u ends before it begins: left out", number);
        return;
    }
    if (entry->first_sector < table->header.first_usable_sector ||
        entry->last_sector > table->header.last_usable_sector)
        scan_note(scan, "partition %u leaves the range that the table has for partitions",
                  number);
    item =
        add(scan, number, entry->first_sector,
            qimg_min_u64(entry->last_sector - entry->first_sector, UINT64_MAX - 1) + 1);
    if (!item)
        return;
    item->type = g_strdup(entry->type_guid);
    item->type_name = gpt_type_name(entry->type_guid);
    item->label = *entry->label ? g_strdup(entry->label) : NULL;
    item->uuid = g_strdup(entry->guid);
    item->attributes = entry->attributes;
}

static void
list_gpt(Scan *scan, GptTable *table)
{
    scan->list->kind = PARTITION_TABLE_GPT;
    scan->list->sector_bytes = table->sector_bytes;
    scan->list->disk_id = g_strdup(table->header.disk_guid);
    for (unsigned i = 0; i < table->header.n_entries; i++) {
        GptEntry entry;

        if (!gpt_decode_entry(table->entries + (size_t)i * table->header.entry_bytes,
                              &entry))
            continue;
        if (i >= QIMG_MAX_PARTITION_NUMBER)
            scan_note(scan, "partition %u has a number above %u: left out", i + 1,
                      QIMG_MAX_PARTITION_NUMBER);
        else
            add_gpt_entry(scan, table, i + 1, &entry);
    }
}

/* ---- MBR ---- */

static bool
ends_within(const MbrEntry *entry, unsigned sector_bytes, uint64_t size_bytes)
{
    /* Neither sum nor product of two 32-bit numbers and a sector size overflows. */
    return ((uint64_t)entry->first_sector + entry->n_sectors) * sector_bytes <=
           size_bytes;
}

/* Whether the beginning of a partition has any non-zero bytes. */
static bool
has_data_at(const Scan *scan, uint64_t start_bytes)
{
    uint64_t size_bytes = scan->source->size_bytes;
    g_autofree uint8_t *bytes = g_try_malloc(GUESS_LOOKS_BYTES);
    uint64_t length;

    if (!bytes || start_bytes >= size_bytes)
        return false;
    length = qimg_min_u64(GUESS_LOOKS_BYTES, size_bytes - start_bytes);
    if (read_at(scan, start_bytes, bytes, length))
        return true;
    return bytes[0] != 0 || memcmp(bytes, bytes + 1, length - 1) != 0;
}

/* Whether all partitions of the table lie on the disk, counted in sectors of
 * @sector_bytes. */
static bool
fits_disk(const Scan *scan, const Mbr *mbr, unsigned sector_bytes)
{
    for (unsigned i = 0; i < MBR_N_ENTRIES; i++)
        if (mbr_entry_is_used(&mbr->entries[i]) && mbr->entries[i].type != MBR_TYPE_GPT &&
            !ends_within(&mbr->entries[i], sector_bytes, scan->source->size_bytes))
            return false;
    return true;
}

/* The size of the sectors that the table counts in. Large ones are rare, and counted in
 * them partitions mostly end beyond a disk of small ones. If they do not, the data of the
 * first partition decide. */
static unsigned
guess_sector_bytes(Scan *scan, const Mbr *mbr)
{
    uint32_t first_sector = UINT32_MAX;

    for (unsigned i = 0; i < MBR_N_ENTRIES; i++)
        if (mbr_entry_is_used(&mbr->entries[i]) && mbr->entries[i].type != MBR_TYPE_GPT)
            first_sector = MIN(first_sector, mbr->entries[i].first_sector);
    if (first_sector == 0 || first_sector == UINT32_MAX ||
        has_data_at(scan, (uint64_t)first_sector * SMALL_SECTOR))
        return SMALL_SECTOR;
    for (size_t i = G_N_ELEMENTS(sector_sizes) - 1; i > 0; i--) {
        unsigned sector_bytes = sector_sizes[i];

        if (!fits_disk(scan, mbr, sector_bytes) ||
            !has_data_at(scan, (uint64_t)first_sector * sector_bytes))
            continue;
        scan_note(scan,
                  "sectors are taken to have %u bytes, by where data lie: the table does "
                  "not say it",
                  sector_bytes);
        return sector_bytes;
    }
    return SMALL_SECTOR;
}

static void
add_mbr_entry(Scan *scan, unsigned number, uint64_t first_sector, const MbrEntry *entry,
              uint32_t disk_number)
{
    QimgPartition *item = add(scan, number, first_sector, entry->n_sectors);

    if (!item)
        return;
    item->type = g_strdup_printf("0x%02x", entry->type);
    item->type_name = mbr_type_name(entry->type);
    item->uuid =
        disk_number ? g_strdup_printf("%08" PRIx32 "-%02x", disk_number, number) : NULL;
    item->is_bootable = entry->boot_flag == 0x80;
    item->is_extended = mbr_entry_is_extended(entry);
}

/* A chain of logical partitions. */
typedef struct {
    uint64_t first_sector; /* of the extended partition */
    uint64_t n_sectors;
    uint64_t link_sectors[MAX_LOGICAL + 1]; /* visited links */
    unsigned n_links;
} Chain;

/* Lists the partitions of one link, as Linux does: the last two entries may contain
 * garbage, and count only if valid. */
static void
add_logical(Scan *scan, const Chain *chain, uint64_t link_sector, const Mbr *ebr,
            uint32_t disk_number, unsigned *next_number)
{
    for (unsigned i = 0; i < MBR_N_ENTRIES; i++) {
        const MbrEntry *entry = &ebr->entries[i];
        uint64_t first = link_sector + entry->first_sector;
        bool is_inside = first >= chain->first_sector &&
                         qimg_range_fits(first - chain->first_sector, entry->n_sectors,
                                         chain->n_sectors);

        if (!mbr_entry_is_used(entry) || mbr_entry_is_extended(entry) ||
            (i >= 2 && !is_inside) || *next_number >= FIRST_LOGICAL + MAX_LOGICAL)
            continue;
        if (!is_inside)
            scan_note(scan, "partition %u leaves the extended partition", *next_number);
        add_mbr_entry(scan, (*next_number)++, first, entry, disk_number);
    }
}

/* The next link; false at the end of the chain. */
static bool
find_next_link(Scan *scan, const Chain *chain, const Mbr *ebr, uint64_t *link_sector)
{
    const MbrEntry *link = NULL;

    for (unsigned i = 0; i < MBR_N_ENTRIES && !link; i++)
        if (mbr_entry_is_used(&ebr->entries[i]) &&
            mbr_entry_is_extended(&ebr->entries[i]))
            link = &ebr->entries[i];
    if (!link)
        return false;
    if (link->first_sector >= chain->n_sectors) {
        scan_note(scan, "the chain of logical partitions leaves the extended partition: "
                        "the rest is ignored");
        return false;
    }
    *link_sector = chain->first_sector + link->first_sector;
    for (unsigned i = 0; i < chain->n_links; i++) {
        if (chain->link_sectors[i] == *link_sector) {
            scan_note(scan,
                      "the chain of logical partitions has a loop: the rest is ignored");
            return false;
        }
    }
    return true;
}

static void
follow_chain(Scan *scan, const MbrEntry *extended, uint32_t disk_number,
             unsigned *next_number)
{
    unsigned sector_bytes = scan->list->sector_bytes;
    Chain chain = {.first_sector = extended->first_sector,
                   .n_sectors = extended->n_sectors};
    uint64_t link_sector = extended->first_sector;

    for (;;) {
        uint64_t start = link_sector * sector_bytes; /* at most 2^33 sectors */
        uint8_t bytes[MBR_BYTES];
        Mbr ebr;

        if (chain.n_links > MAX_LOGICAL || *next_number >= FIRST_LOGICAL + MAX_LOGICAL) {
            scan_note(scan,
                      "there are more than %u logical partitions: the others are left "
                      "out",
                      MAX_LOGICAL);
            return;
        }
        chain.link_sectors[chain.n_links++] = link_sector;
        if (!qimg_range_fits(start, sizeof bytes, scan->source->size_bytes) ||
            read_at(scan, start, bytes, sizeof bytes)) {
            scan_note(scan,
                      "the chain of logical partitions cannot be read at byte %" PRIu64,
                      start);
            return;
        }
        if (!mbr_decode(bytes, &ebr)) {
            scan_note(scan, "the chain of logical partitions is broken at byte %" PRIu64,
                      start);
            return;
        }
        add_logical(scan, &chain, link_sector, &ebr, disk_number, next_number);
        if (!find_next_link(scan, &chain, &ebr, &link_sector))
            return;
    }
}

static void
list_mbr(Scan *scan, const Mbr *mbr)
{
    unsigned next_number = FIRST_LOGICAL;

    scan->list->kind = PARTITION_TABLE_MBR;
    scan->list->sector_bytes = guess_sector_bytes(scan, mbr);
    if (mbr->disk_number)
        scan->list->disk_id = g_strdup_printf("%08" PRIx32, mbr->disk_number);
    for (unsigned i = 0; i < MBR_N_ENTRIES; i++) {
        const MbrEntry *entry = &mbr->entries[i];

        if (mbr_entry_is_used(entry) && entry->type != MBR_TYPE_GPT)
            add_mbr_entry(scan, i + 1, entry->first_sector, entry, mbr->disk_number);
    }
    for (unsigned i = 0; i < MBR_N_ENTRIES; i++) {
        const MbrEntry *entry = &mbr->entries[i];

        if (mbr_entry_is_used(entry) && mbr_entry_is_extended(entry))
            follow_chain(scan, entry, mbr->disk_number, &next_number);
    }
    scan->list->first_nested = next_number;
    partition_others_add_nested(scan->source, scan->list);
}

/* ---- both ---- */

static int
compare_starts(gconstpointer a, gconstpointer b)
{
    const QimgPartition *one = *(const QimgPartition *const *)a;
    const QimgPartition *other = *(const QimgPartition *const *)b;

    return (one->start_bytes > other->start_bytes) -
           (one->start_bytes < other->start_bytes);
}

/* Notes partitions that share bytes: both are listed, since either may be wrong. */
static void
note_overlaps(Scan *scan)
{
    g_autoptr(GPtrArray) sorted = g_ptr_array_new();
    const QimgPartition *last = NULL; /* the one with the highest end so far */

    for (guint i = 0; i < scan->list->items->len; i++) {
        QimgPartition *item = &g_array_index(scan->list->items, QimgPartition, i);

        if (!item->is_extended && item->number < scan->list->first_nested)
            g_ptr_array_add(sorted, item);
    }
    g_ptr_array_sort(sorted, compare_starts);
    for (guint i = 0; i < sorted->len; i++) {
        const QimgPartition *item = sorted->pdata[i];

        if (last && item->start_bytes < last->start_bytes + last->length_bytes)
            scan_note(scan, "partitions %u and %u overlap", last->number, item->number);
        if (!last || item->start_bytes + item->length_bytes >
                         last->start_bytes + last->length_bytes)
            last = item;
    }
}

static bool
is_blank(const uint8_t *bytes, size_t n_bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, n_bytes - 1) == 0;
}

/* Counts the used entries of an MBR: those that protect a GPT, and the others. */
static void
count_entries(const Mbr *mbr, unsigned *n_protective, unsigned *n_others)
{
    *n_protective = *n_others = 0;
    for (unsigned i = 0; i < MBR_N_ENTRIES; i++) {
        if (mbr->entries[i].type == MBR_TYPE_GPT)
            ++*n_protective;
        else if (mbr_entry_is_used(&mbr->entries[i]))
            ++*n_others;
    }
}

/* Whether a table was found, even a damaged one. */
static bool
find_table(Scan *scan)
{
    uint8_t first_sector[MBR_BYTES];
    QimgErrno err = read_at(scan, 0, first_sector, sizeof first_sector);
    unsigned n_protective = 0, n_others = 0;
    bool has_mbr, is_table, is_found = false;
    GptTable table = {0};
    Mbr mbr;

    has_mbr = !err && mbr_decode(first_sector, &mbr);
    if (has_mbr)
        count_entries(&mbr, &n_protective, &n_others);
    /* A protective entry counts by its GPT alone, whatever else the sector holds. */
    is_table = has_mbr && !mbr_is_file_system(first_sector) && mbr_has_good_flags(&mbr);
    if (!is_table)
        n_others = 0;
    /* Without a protective entry, remains of an old GPT below a file system or another
     * table must not count. */
    if (n_protective > 0 || err || is_blank(first_sector, sizeof first_sector))
        is_found = find_gpt(scan, is_table && n_protective > 0, &table);
    if (is_found) {
        list_gpt(scan, &table);
        clear_table(&table);
        if (n_protective == 0)
            scan_note(scan,
                      err ? "the first sector cannot be read"
                          : "the first sector is blank and does not protect the GPT");
        if (n_others > 0)
            scan_note(scan,
                      "the disk has a hybrid table: the MBR has %u entries besides, "
                      "which are not used",
                      n_others);
    } else if (n_others > 0) {
        list_mbr(scan, &mbr);
        is_found = n_protective > 0 || scan->list->items->len > 0;
    } else if (is_table && n_protective > 0) {
        scan->list->kind = PARTITION_TABLE_GPT;
        is_found = true;
    }
    return is_found;
}

QimgPartitions *
partition_scan(const PartitionSource *source)
{
    Scan scan = {.source = source, .list = g_new0(QimgPartitions, 1)};

    atomic_init(&scan.list->refs, 1);
    scan.list->sector_bytes = SMALL_SECTOR;
    scan.list->first_nested = UINT_MAX;
    scan.list->items = g_array_new(FALSE, FALSE, sizeof(QimgPartition));
    scan.list->notes = g_ptr_array_new_with_free_func(g_free);
    if (source->size_bytes < MBR_BYTES ||
        (!find_table(&scan) && !partition_others_add(source, scan.list))) {
        qimg_partitions_unref(scan.list);
        return NULL;
    }
    note_overlaps(&scan);
    return scan.list;
}
