/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libblkid starts only if a signature is there: an excerpt costs reads of 3 MiB. */
#include "partition/others.h"

#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "partition/excerpt.h"
#ifdef HAVE_BLKID
#include <blkid.h>
#endif

#define SECTOR_BYTES   512u
#define LOOK_BYTES     (16 * QIMG_KIB)
#define MAX_SLICES     4u
#define LAST_PRIMARY   4u
#define ATARI_ENTRY_AT 0x1c6u
#define ATARI_ENTRIES  4u
#define MAX_CHAIN      16u /* sectors with logical partitions of an Atari table */

/* The places of the tables' signatures. */
static const struct {
    const char *kind;
    uint32_t offset;
    const char *bytes;
    size_t n_bytes;
} signatures[] = {
    {"bsd", 512, "\x57\x45\x56\x82", 4},
    {"bsd", 64, "\x57\x45\x56\x82", 4}, /* Alpha */
    {"sun", 508, "\xda\xbe", 2},
    {"sgi", 0, "\x0b\xe5\xa9\x41", 4},
    {"mac", 0, "ER", 2},
    {"mac", 512, "PM\0\0", 4},
    {"ultrix", 16384 - 72, "\x57\x29\x03\0", 4},
    /* Volume labels in EBCDIC: VOL1, LNX1, CMS1. */
    {"dasd", 2 * 4096, "\xe5\xd6\xd3\xf1", 4},
    {"dasd", 4096, "\xd3\xd5\xe7\xf1", 4},
    {"dasd", 2 * 4096, "\xd3\xd5\xe7\xf1", 4},
    {"dasd", 4096, "\xc3\xd4\xe2\xf1", 4},
    {"dasd", 512, "\xd3\xd5\xe7\xf1", 4},
    {"amiga", 0, "RDSK", 4},
};

/* An Atari table has no signature: a used entry has a flag and three characters. */
static bool
is_like_atari(const uint8_t *bytes)
{
    static const char *const ids[] = {"GEM", "BGM", "XGM", "LNX", "RAW", "SWP"};

    for (unsigned i = 0; i < ATARI_ENTRIES; i++) {
        const uint8_t *entry = bytes + ATARI_ENTRY_AT + (size_t)12 * i;

        for (size_t k = 0; k < G_N_ELEMENTS(ids); k++)
            if ((entry[0] & 1) && memcmp(entry + 1, ids[k], 3) == 0)
                return true;
    }
    return false;
}

/* Reads the first entry of a sector that refers to another one with logical partitions;
 * false if there is none. */
static bool
find_atari_link(const PartitionSource *source, uint64_t sector, uint32_t *sector_out)
{
    uint8_t bytes[SECTOR_BYTES];

    if (sector >= source->size_bytes / SECTOR_BYTES ||
        source->read(source->user, sector * SECTOR_BYTES, bytes, sizeof bytes) != 0)
        return false;
    for (unsigned i = 0; i < ATARI_ENTRIES; i++) {
        const uint8_t *entry = bytes + ATARI_ENTRY_AT + (size_t)12 * i;
        qimg_be32 start;

        if (!(entry[0] & 1) || memcmp(entry + 1, "XGM", 3) != 0)
            continue;
        memcpy(&start, entry + 4, sizeof start);
        *sector_out = qimg_be32_get(start);
        return true;
    }
    return false;
}

/* Finds the sectors with logical partitions of an Atari table. They form a chain; places
 * in it count from its first one. Returns their number. */
static size_t
find_atari_chain(const PartitionSource *source, uint64_t places_bytes[MAX_CHAIN])
{
    uint32_t first, next = 0;
    size_t n = 0;

    if (!find_atari_link(source, 0, &first))
        return 0;
    do {
        uint64_t sector = (uint64_t)first + next;

        places_bytes[n++] = sector * SECTOR_BYTES;
        if (!find_atari_link(source, sector, &next))
            break;
    } while (n < MAX_CHAIN);
    return n;
}

static const char *
find_kind(const PartitionSource *source, uint64_t start_bytes)
{
    uint8_t bytes[LOOK_BYTES] = {0};
    uint64_t n_bytes = qimg_min_u64(
        sizeof bytes, source->size_bytes - qimg_min_u64(start_bytes, source->size_bytes));

    if (n_bytes < SECTOR_BYTES ||
        source->read(source->user, start_bytes, bytes, n_bytes) != 0)
        return NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(signatures); i++)
        if (signatures[i].offset + signatures[i].n_bytes <= sizeof bytes &&
            memcmp(bytes + signatures[i].offset, signatures[i].bytes,
                   signatures[i].n_bytes) == 0)
            return signatures[i].kind;
    return is_like_atari(bytes) ? "atari" : NULL;
}

static void others_note(QimgPartitions *list, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

static void
others_note(QimgPartitions *list, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(list->notes, g_strdup_vprintf(format, args));
    va_end(args);
}

#ifdef HAVE_BLKID
/* The number behind the last one, for a table inside a partition of an MBR: logical
 * partitions come first, and libblkid may not have seen them in the excerpt. */
static int
next_number(const QimgPartitions *list)
{
    unsigned last = LAST_PRIMARY;

    for (guint i = 0; i < list->items->len; i++)
        last = MAX(last, g_array_index(list->items, QimgPartition, i).number);
    return (int)last + 1;
}

static char *
utf8_or_null(const char *text)
{
    return text && *text ? g_utf8_make_valid(text, -1) : NULL;
}

/* Adds one partition of libblkid's, cut at the disk's end, as @number. */
static void
add_found(const PartitionSource *source, QimgPartitions *list, blkid_partition found,
          int number)
{
    uint64_t start_bytes = (uint64_t)blkid_partition_get_start(found), length_bytes;
    const char *type = blkid_partition_get_type_string(found);
    QimgPartition item = {.struct_bytes = sizeof item};

    if (number < 1 || number > (int)QIMG_MAX_PARTITION_NUMBER)
        return;
    if (!qimg_mul_u64(start_bytes, SECTOR_BYTES, &start_bytes) ||
        !qimg_mul_u64((uint64_t)blkid_partition_get_size(found), SECTOR_BYTES,
                      &length_bytes) ||
        start_bytes >= source->size_bytes) {
        others_note(list, "partition %d begins beyond the disk's end: left out", number);
        return;
    }
    if (length_bytes > source->size_bytes - start_bytes) {
        others_note(list, "partition %d ends beyond the disk's end: cut there", number);
        length_bytes = source->size_bytes - start_bytes;
    }
    if (length_bytes == 0)
        return;
    item.number = (unsigned)number;
    item.start_bytes = start_bytes;
    item.length_bytes = length_bytes;
    item.type = type && *type
                    ? utf8_or_null(type)
                    : g_strdup_printf("0x%02x", blkid_partition_get_type(found));
    item.label = utf8_or_null(blkid_partition_get_name(found));
    item.uuid = utf8_or_null(blkid_partition_get_uuid(found));
    g_array_append_val(list->items, item);
}

static int
compare_numbers(gconstpointer a, gconstpointer b)
{
    const QimgPartition *one = a, *other = b;

    return (one->number > other->number) - (one->number < other->number);
}

/* Adds the partitions of tables other than GPT and MBR that libblkid finds in an excerpt
 * with the @n_more places at @more_bytes; @is_inside: the tables are inside partitions
 * that begin there. Returns the kind of the last one, NULL: none. */
static char *
add_by_blkid(const PartitionSource *source, const uint64_t *more_bytes, size_t n_more,
             bool is_inside, QimgPartitions *list)
{
    qimg_autofd fd = partition_excerpt_make(source, more_bytes, n_more);
    blkid_probe probe = fd >= 0 ? blkid_new_probe() : NULL;
    blkid_partlist found = NULL;
    char *kind = NULL;

    if (!probe)
        return NULL;
    blkid_probe_enable_partitions(probe, 1);
    if (blkid_probe_set_device(probe, fd, 0, 0) == 0)
        found = blkid_probe_get_partitions(probe);
    for (int i = 0; found && i < blkid_partlist_numof_partitions(found); i++) {
        blkid_partition one = blkid_partlist_get_partition(found, i);
        blkid_parttable table = one ? blkid_partition_get_table(one) : NULL;
        const char *type = table ? blkid_parttable_get_type(table) : NULL;

        if (!type || strcmp(type, "dos") == 0 || strcmp(type, "gpt") == 0)
            continue;
        g_free(kind);
        kind = g_strdup(type);
        add_found(source, list, one,
                  is_inside ? next_number(list) : blkid_partition_get_partno(one));
    }
    blkid_free_probe(probe);
    g_array_sort(list->items, compare_numbers);
    return kind;
}
#else
static char *
add_by_blkid(const PartitionSource *source, const uint64_t *more_bytes, size_t n_more,
             bool is_inside, QimgPartitions *list)
{
    (void)source, (void)more_bytes, (void)n_more, (void)is_inside, (void)list;
    return NULL;
}
#endif

bool
partition_others_add(const PartitionSource *source, QimgPartitions *list)
{
    const char *signature = find_kind(source, 0);
    uint64_t chain_bytes[MAX_CHAIN];
    size_t n_chain =
        g_strcmp0(signature, "atari") == 0 ? find_atari_chain(source, chain_bytes) : 0;
    char *kind =
        signature ? add_by_blkid(source, chain_bytes, n_chain, false, list) : NULL;

    if (!signature || (!kind && strcmp(signature, "atari") == 0))
        return false;
    list->kind = PARTITION_TABLE_OTHER;
    list->sector_bytes = SECTOR_BYTES;
    list->other_kind = kind ? kind : g_strdup(signature);
    if (!kind)
        others_note(list,
                    "the disk has a table of kind %s, whose partitions are not shown",
                    signature);
    return true;
}

void
partition_others_add_nested(const PartitionSource *source, QimgPartitions *list)
{
    uint64_t starts[MAX_SLICES];
    unsigned numbers[MAX_SLICES];
    size_t n_starts = 0;
    g_autofree char *kind = NULL;

    if (list->sector_bytes != SECTOR_BYTES)
        return;
    for (guint i = 0; i < list->items->len && n_starts < MAX_SLICES; i++) {
        const QimgPartition *item = &g_array_index(list->items, QimgPartition, i);
        const char *inside = item->number <= LAST_PRIMARY && !item->is_extended
                                 ? find_kind(source, item->start_bytes)
                                 : NULL;

        if (!inside || strcmp(inside, "bsd") != 0)
            continue;
        starts[n_starts] = item->start_bytes;
        numbers[n_starts++] = item->number;
    }
    if (n_starts == 0)
        return;
    kind = add_by_blkid(source, starts, n_starts, true, list);
    for (size_t i = 0; i < n_starts && !kind; i++)
        others_note(list,
                    "partition %u has a table of kind bsd inside, whose partitions are "
                    "not shown",
                    numbers[i]);
}
