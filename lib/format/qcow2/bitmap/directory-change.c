/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Exchanging the directory of bitmaps. */
#include "format/qcow2/bitmap/directory-change.h"

#include "base/endian.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"

QimgErrno
qcow2_write_bitmap_directory(Qcow2 *q, const uint8_t *bytes, uint64_t n_bytes,
                             uint64_t *host_offset_out)
{
    uint64_t n_clusters = qimg_div_round_up(n_bytes, q->geometry.cluster_bytes);
    uint64_t first_cluster, host_offset;
    QimgErrno err = qcow2_alloc_exactly(q, n_clusters, &first_cluster);

    if (err)
        return err;
    host_offset = first_cluster << q->geometry.cluster_bits;
    err = qimg_storage_write(q->base.file, QIMG_IO_BITMAP, qimg_host(host_offset), bytes,
                             n_bytes);
    if (!err)
        err = qimg_storage_sync(q->base.file);
    if (!err)
        err = qimg_format_metadata_add(&q->base, host_offset, n_bytes);
    if (err)
        return err; /* leaked: what was written of it is not known */
    *host_offset_out = host_offset;
    return 0;
}

static QimgErrno
write_autoclear(Qcow2 *q, bool has_bitmaps)
{
    uint64_t bits = q->header.autoclear_features & ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
    qimg_be64 field;
    QimgErrno err;

    bits |= has_bitmaps ? QCOW2_AUTOCLEAR_BITMAPS : 0;
    field = qimg_be64_set(bits);
    err = qcow2_write_header_field(q, QCOW2_HEADER_AT_AUTOCLEAR, &field, sizeof field);
    if (!err)
        q->header.autoclear_features = bits;
    return err;
}

QimgErrno
qcow2_switch_bitmap_directory(Qcow2 *q, const Qcow2BitmapsExtension *to)
{
    struct {
        qimg_be32 n_bitmaps;
        qimg_be32 reserved;
        qimg_be64 directory_bytes;
        qimg_be64 directory_offset;
    } field = {qimg_be32_set(to->n_bitmaps), qimg_be32_set(0),
               qimg_be64_set(to->directory_bytes), qimg_be64_set(to->directory_offset)};
    Qcow2BitmapsExtension old = q->bitmaps;
    uint64_t at = q->bitmaps_extension_at;
    bool is_atomic =
        at / QIMG_SECTOR_BYTES == (at + sizeof field - 1) / QIMG_SECTOR_BYTES;
    QimgErrno err = is_atomic ? 0 : write_autoclear(q, false);

    _Static_assert(sizeof field == QCOW2_BITMAPS_EXTENSION_BYTES, "on-disk size");
    if (!err)
        err = qcow2_write_header_field(q, at, &field, sizeof field);
    if (!err && !is_atomic)
        err = write_autoclear(q, true);
    if (err)
        return err;
    q->bitmaps = *to;
    qcow2_free_later(q, (QimgClusters){old.directory_offset >> q->geometry.cluster_bits,
                                       qimg_div_round_up(old.directory_bytes,
                                                         q->geometry.cluster_bytes)});
    return 0;
}
