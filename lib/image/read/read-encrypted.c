/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The unit of a cipher is the sector: whole ones are read to where they are wanted and
 * decrypted there, parts of one by way of a copy. Spec: encryption section 6. */
#include "image/read/read-encrypted.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"

/* Decrypting this much takes longer than waking a worker. */
#define SHARE_BYTES (64 * QIMG_KIB)
#define MAX_SHARES  64u

/* A range of the layer's data: host and guest offset are alike in their sectors. */
typedef struct {
    QimgFormat *layer;
    uint64_t host_offset;
    uint64_t guest_offset;
    uint8_t *target;
    uint64_t length_bytes;
    QimgErrno result;
} EncryptedRange;

QimgErrno
read_encrypted_sectors(QimgFormat *layer, QimgHostOffset host_offset,
                       uint64_t guest_offset, uint8_t *bytes, uint64_t n_bytes)
{
    QimgErrno err = qimg_storage_read(qimg_format_data_storage(layer), QIMG_IO_DATA,
                                      host_offset, bytes, n_bytes);
    uint64_t counted = layer->iv_counts_guest ? guest_offset : host_offset.v;

    return err ? err
               : qimg_cipher_decrypt(layer->cipher, counted / QIMG_SECTOR_BYTES, bytes,
                                     n_bytes);
}

static QimgErrno
read_encrypted_range(const EncryptedRange *range)
{
    QimgErrno err = 0;
    uint64_t done = 0;

    while (!err && done < range->length_bytes) {
        uint64_t host = range->host_offset + done;
        uint64_t guest = range->guest_offset + done;
        uint64_t left = range->length_bytes - done;
        uint64_t skipped = host % QIMG_SECTOR_BYTES;
        uint64_t n_bytes = qimg_align_down(left, QIMG_SECTOR_BYTES);

        if (skipped != 0 || n_bytes == 0) {
            uint8_t sector[QIMG_SECTOR_BYTES];

            n_bytes = qimg_min_u64(QIMG_SECTOR_BYTES - skipped, left);
            err = read_encrypted_sectors(range->layer, qimg_host(host - skipped),
                                         guest - skipped, sector, sizeof sector);
            if (!err)
                memcpy(range->target + done, sector + skipped, n_bytes);
        } else {
            err = read_encrypted_sectors(range->layer, qimg_host(host), guest,
                                         range->target + done, n_bytes);
        }
        done += n_bytes;
    }
    return err;
}

/* A part of @range: @length_bytes from @done on. */
static EncryptedRange
part_of_range(const EncryptedRange *range, uint64_t done, uint64_t length_bytes)
{
    EncryptedRange part = *range;

    part.host_offset += done;
    part.guest_offset += done;
    part.target += done;
    part.length_bytes = length_bytes;
    return part;
}

/* Reads the first part of @range with its sectors held. */
static QimgErrno
read_held_part(const EncryptedRange *range, uint64_t *done_out)
{
    QimgSectors *sectors = range->layer->sectors;
    uint64_t range_end = range->guest_offset + range->length_bytes;
    uint64_t end = qimg_align_down(range_end + QIMG_SECTOR_BYTES - 1, QIMG_SECTOR_BYTES);
    EncryptedRange part;
    QimgInflight held;
    QimgErrno err;

    qimg_sectors_hold(sectors, &held,
                      qimg_align_down(range->guest_offset, QIMG_SECTOR_BYTES), &end);
    *done_out = qimg_min_u64(end, range_end) - range->guest_offset;
    part = part_of_range(range, 0, *done_out);
    err = read_encrypted_range(&part);
    qimg_sectors_release(sectors, &held);
    return err;
}

/* As read_encrypted_range: no sector is read while it changes. */
static QimgErrno
read_beside_writers(const EncryptedRange *range)
{
    QimgSectors *sectors = range->layer->sectors;
    QimgErrno err = 0;
    uint64_t done = 0;

    if (!sectors)
        return read_encrypted_range(range);
    while (!err && done < range->length_bytes) {
        EncryptedRange part = part_of_range(range, done, range->length_bytes - done);
        uint64_t end = part.guest_offset + part.length_bytes;
        QimgSectorsLook look;
        bool is_calm = qimg_sectors_begin_look(sectors, part.guest_offset, &end, &look);
        uint64_t n_bytes = end - part.guest_offset;

        part.length_bytes = n_bytes;
        if (is_calm) {
            err = read_encrypted_range(&part);
            is_calm = qimg_sectors_end_look(sectors, &look);
        }
        if (!is_calm)
            err = read_held_part(&part, &n_bytes);
        done += n_bytes;
    }
    return err;
}

/* One item of qimg_workers_parallel. */
static void
read_share(void *user, unsigned item_index)
{
    EncryptedRange *share = (EncryptedRange *)user + item_index;

    share->result = read_beside_writers(share);
}

QimgErrno
read_encrypted(QimgFormat *layer, QimgHostOffset host_offset, uint64_t guest_offset,
               uint8_t *target, uint64_t length_bytes, QimgWorkers *workers)
{
    const EncryptedRange whole = {.layer = layer,
                                  .host_offset = host_offset.v,
                                  .guest_offset = guest_offset,
                                  .target = target,
                                  .length_bytes = length_bytes};
    EncryptedRange shares[MAX_SHARES + 2]; /* both ends may be short */
    uint64_t share_bytes =
        qimg_align_down(length_bytes / MAX_SHARES, SHARE_BYTES) + SHARE_BYTES;
    unsigned n_shares = 0;
    QimgErrno err = 0;

    if (!layer->cipher)
        return -ENOKEY;
    if (length_bytes <= SHARE_BYTES)
        return read_beside_writers(&whole);
    /* The first one ends at a multiple of its size, so that the others are whole. */
    for (uint64_t done = 0; done < length_bytes; n_shares++) {
        EncryptedRange *share = &shares[n_shares];

        *share = part_of_range(
            &whole, done,
            qimg_min_u64(share_bytes - (whole.host_offset + done) % share_bytes,
                         length_bytes - done));
        done += share->length_bytes;
    }
    qimg_workers_parallel(workers, n_shares, read_share, shares);
    for (unsigned i = 0; i < n_shares && !err; i++)
        err = shares[i].result;
    return err;
}
