/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole sectors are encrypted from where they are into a buffer of the thread, of the
 * size of a share, and written from there: no plain byte reaches the file, and the
 * caller's bytes stay. Spec: encryption section 6. */
#include "image/write/write-encrypted.h"

#include <string.h>

#include "base/checked.h"
#include "base/scratch.h"
#include "image/read/read-encrypted.h"

/* Encrypting this much takes longer than waking a worker. */
#define SHARE_BYTES (64 * QIMG_KIB)
/* Of the sectors held at once, at most a stripe of them. */
#define MAX_SHARES (QIMG_MIB / (64 * QIMG_KIB) + 1)

/* Bytes of the disk in memory, at guest offsets. */
typedef struct {
    uint64_t start;
    uint64_t end;
    const uint8_t *bytes;
} Source;

/* The new content of a range of sectors: gapless sources in the order of the disk. */
typedef struct {
    QimgFormat *layer;
    uint64_t host_from_guest; /* added to a guest offset, modulo 2^64 */
    Source sources[WRITE_ENCRYPTED_MAX_PARTS + 2];
    unsigned n_sources;
} SectorContent;

typedef struct {
    const SectorContent *content;
    uint64_t start; /* guest bytes, sectors */
    uint64_t end;
    QimgErrno result;
} WriteShare;

/* Copies [@start, @end) of the content to @target. */
static void
gather_sources(const SectorContent *content, uint64_t start, uint64_t end,
               uint8_t *target)
{
    for (unsigned i = 0; i < content->n_sources; i++) {
        const Source *source = &content->sources[i];
        uint64_t from = qimg_max_u64(start, source->start);
        uint64_t to = qimg_min_u64(end, source->end);

        if (from < to)
            memcpy(target + (from - start), source->bytes + (from - source->start),
                   to - from);
    }
}

/* The bytes of whole sectors at @start, at most to @end, in one source; 0: the first
 * sector lies in several. */
static uint64_t
find_whole(const SectorContent *content, uint64_t start, uint64_t end,
           const uint8_t **bytes_out)
{
    for (unsigned i = 0; i < content->n_sources; i++) {
        const Source *source = &content->sources[i];

        if (start < source->start || start >= source->end)
            continue;
        *bytes_out = source->bytes + (start - source->start);
        return qimg_align_down(qimg_min_u64(end, source->end) - start, QIMG_SECTOR_BYTES);
    }
    return 0;
}

static QimgErrno
encrypt_range(const SectorContent *content, uint64_t start, uint64_t end, uint8_t *target)
{
    const QimgFormat *layer = content->layer;
    QimgErrno err = 0;

    while (!err && start < end) {
        const uint8_t *source = NULL;
        uint64_t n_bytes = find_whole(content, start, end, &source);
        uint64_t counted =
            layer->iv_counts_guest ? start : start + content->host_from_guest;
        uint8_t sector[QIMG_SECTOR_BYTES];

        if (n_bytes == 0) {
            n_bytes = sizeof sector;
            gather_sources(content, start, start + n_bytes, sector);
            source = sector;
        }
        err = qimg_cipher_encrypt_to(layer->cipher, counted / QIMG_SECTOR_BYTES, source,
                                     target, n_bytes);
        start += n_bytes;
        target += n_bytes;
    }
    return err;
}

/* One item of qimg_workers_parallel. */
static void
write_share(void *user, unsigned item_index)
{
    WriteShare *share = (WriteShare *)user + item_index;
    const SectorContent *content = share->content;
    uint64_t n_bytes = share->end - share->start;
    uint8_t *buffer = qimg_scratch_get(QIMG_SCRATCH_CRYPT, SHARE_BYTES);

    share->result =
        buffer ? encrypt_range(content, share->start, share->end, buffer) : -ENOMEM;
    if (!share->result)
        share->result = qimg_storage_write(
            qimg_format_data_storage(content->layer), QIMG_IO_DATA,
            qimg_host(share->start + content->host_from_guest), buffer, n_bytes);
}

/* Writes the sectors from @start to @end, which the caller holds. */
static QimgErrno
write_sectors(const SectorContent *content, uint64_t start, uint64_t end,
              QimgWorkers *workers)
{
    WriteShare shares[MAX_SHARES];
    unsigned n_shares = 0;
    QimgErrno err = 0;

    for (; start < end; n_shares++) {
        uint64_t share_end =
            qimg_min_u64(end, qimg_align_down(start, SHARE_BYTES) + SHARE_BYTES);

        g_assert(n_shares < MAX_SHARES);
        shares[n_shares] =
            (WriteShare){.content = content, .start = start, .end = share_end};
        start = share_end;
    }
    qimg_workers_parallel(workers, n_shares, write_share, shares);
    for (unsigned i = 0; i < n_shares && !err; i++)
        err = shares[i].result;
    return err;
}

/* Adds what stays at [@start, @end), inside one sector, read into @sector. */
static QimgErrno
keep_edge(SectorContent *content, uint64_t start, uint64_t end,
          uint8_t sector[QIMG_SECTOR_BYTES])
{
    uint64_t sector_start = qimg_align_down(start, QIMG_SECTOR_BYTES);

    content->sources[content->n_sources++] =
        (Source){start, end, sector + (start - sector_start)};
    return read_encrypted_sectors(content->layer,
                                  qimg_host(sector_start + content->host_from_guest),
                                  sector_start, sector, QIMG_SECTOR_BYTES);
}

/* Writes from @start as far as the sectors can be held at once, at most to *@end, which
 * is lowered to that. */
static QimgErrno
write_held_part(const SectorContent *content, uint64_t start, uint64_t *end,
                QimgWorkers *workers)
{
    uint64_t first = qimg_align_down(start, QIMG_SECTOR_BYTES);
    uint64_t last = qimg_align_down(*end + QIMG_SECTOR_BYTES - 1, QIMG_SECTOR_BYTES);
    uint8_t head[QIMG_SECTOR_BYTES], tail[QIMG_SECTOR_BYTES];
    QimgSectors *sectors = content->layer->sectors;
    SectorContent filled = *content;
    QimgInflight held;
    QimgErrno err = 0;

    qimg_sectors_begin_change(sectors, &held, first, &last);
    *end = qimg_min_u64(*end, last);
    if (start > first)
        err = keep_edge(&filled, first, start, head);
    if (!err && *end < last)
        err = keep_edge(&filled, *end, last, tail);
    if (!err)
        err = write_sectors(&filled, first, last, workers);
    qimg_sectors_end_change(sectors, &held);
    return err;
}

QimgErrno
write_encrypted(QimgFormat *layer, QimgHostOffset host_offset, uint64_t guest_offset,
                const struct iovec *parts, unsigned n_parts, QimgWorkers *workers)
{
    SectorContent content = {.layer = layer,
                             .host_from_guest = host_offset.v - guest_offset};
    uint64_t end = guest_offset, part_end;
    QimgErrno err = 0;

    if (!layer->cipher || !layer->sectors)
        return -ENOKEY;
    for (unsigned i = 0; i < n_parts; i++) {
        content.sources[content.n_sources++] =
            (Source){end, end + parts[i].iov_len, parts[i].iov_base};
        end += parts[i].iov_len;
    }
    for (uint64_t at = guest_offset; !err && at < end; at = part_end) {
        part_end = end;
        err = write_held_part(&content, at, &part_end, workers);
    }
    return err;
}
