/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Partition tables, with the decoders of MBR and GPT below. Input: a byte whose bit 0
 * requests corrected checksums of a GPT, a byte with the zeros (in 64 KiB) between the
 * disk's beginning and its end, two bytes with the length of that beginning
 * (little-endian), the beginning, the end. */
#include <string.h>
#include <zlib.h>

#include "base/checked.h"
#include "base/endian.h"
#include "fuzz.h"
#include "partition/gpt.h"
#include "partition/list.h"
#include "partition/scan.h"

#define INPUT_HEADER_BYTES 4u
#define MAX_NOTES          65u

typedef struct {
    uint8_t *head;
    uint8_t *tail;
    uint64_t head_bytes;
    uint64_t tail_start;
    uint64_t size_bytes;
} Disk;

static QimgErrno
read_disk(void *user, uint64_t offset_bytes, void *buffer, size_t length_bytes)
{
    const Disk *disk = user;
    uint8_t *out = buffer;

    FUZZ_CHECK(qimg_range_fits(offset_bytes, length_bytes, disk->size_bytes));
    for (size_t i = 0; i < length_bytes; i++) {
        uint64_t at = offset_bytes + i;

        out[i] = at < disk->head_bytes    ? disk->head[at]
                 : at >= disk->tail_start ? disk->tail[at - disk->tail_start]
                                          : 0;
    }
    return 0;
}

static uint8_t *
byte_at(const Disk *disk, uint64_t at, size_t n_bytes)
{
    if (qimg_range_fits(at, n_bytes, disk->head_bytes))
        return disk->head + at;
    if (at >= disk->tail_start && qimg_range_fits(at, n_bytes, disk->size_bytes))
        return disk->tail + (at - disk->tail_start);
    return NULL;
}

/* Without this no mutation of a GPT would get past its checksums. */
static void
mend_header(Disk *disk, uint64_t at, unsigned sector_bytes)
{
    uint8_t *header = byte_at(disk, at, GPT_HEADER_BYTES);
    qimg_le32 number, length;
    qimg_le64 sector;
    uint64_t start, n_bytes;
    g_autofree uint8_t *entries = NULL;

    if (!header)
        return;
    memcpy(&number, header + 80, 4);
    memcpy(&length, header + 84, 4);
    memcpy(&sector, header + 72, 8);
    n_bytes = (uint64_t)qimg_le32_get(number) * qimg_le32_get(length);
    if (n_bytes <= QIMG_MIB &&
        qimg_mul_u64(qimg_le64_get(sector), sector_bytes, &start) &&
        qimg_range_fits(start, n_bytes, disk->size_bytes)) {
        entries = g_malloc(n_bytes + 1);
        if (read_disk(disk, start, entries, n_bytes) == 0) {
            number = qimg_le32_set((uint32_t)crc32(0, entries, (uInt)n_bytes));
            memcpy(header + 88, &number, 4);
        }
    }
    memset(header + 16, 0, 4);
    number = qimg_le32_set((uint32_t)crc32(0, header, GPT_HEADER_BYTES));
    memcpy(header + 16, &number, 4);
}

static void
check_list(const Disk *disk, const QimgPartitions *list)
{
    g_autofree char *json = qimg_partitions_json(list, NULL);
    unsigned last_number = 0;

    FUZZ_CHECK(json != NULL && list->notes->len <= MAX_NOTES);
    FUZZ_CHECK(qimg_partitions_get_n(list) <= QIMG_MAX_PARTITION_NUMBER);
    for (unsigned i = 0; i < qimg_partitions_get_n(list); i++) {
        const QimgPartition *p = qimg_partitions_get(list, i);

        FUZZ_CHECK(p->length_bytes > 0);
        FUZZ_CHECK(qimg_range_fits(p->start_bytes, p->length_bytes, disk->size_bytes));
        FUZZ_CHECK(p->number > last_number);
        FUZZ_CHECK(!p->label || g_utf8_validate(p->label, -1, NULL));
        last_number = p->number;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    Disk disk = {0};
    PartitionSource source = {.read = read_disk, .user = &disk};
    QimgPartitions *list;
    uint64_t tail_bytes;

    if (n_bytes < INPUT_HEADER_BYTES)
        return 0;
    disk.head_bytes =
        qimg_min_u64(bytes[2] | (uint64_t)bytes[3] << 8, n_bytes - INPUT_HEADER_BYTES);
    tail_bytes = n_bytes - INPUT_HEADER_BYTES - disk.head_bytes;
    disk.tail_start = disk.head_bytes + bytes[1] * 64 * QIMG_KIB;
    disk.size_bytes = disk.tail_start + tail_bytes;
    disk.head = g_memdup2(bytes + INPUT_HEADER_BYTES, disk.head_bytes);
    disk.tail = g_memdup2(bytes + INPUT_HEADER_BYTES + disk.head_bytes, tail_bytes);
    for (unsigned size = 512; bytes[0] & 1 && size <= 4096; size *= 8) {
        mend_header(&disk, size, size);
        mend_header(&disk, disk.size_bytes - size, size);
    }
    source.size_bytes = disk.size_bytes;
    list = partition_scan(&source);
    if (list)
        check_list(&disk, list);
    qimg_partitions_unref(list);
    g_free(disk.head);
    g_free(disk.tail);
    return 0;
}
