/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Replacing the directory of bitmaps. */
#include "format/qcow2/bitmap/directory-change.h"

#include <errno.h>

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
        return err; /* leaked: the written part is unknown */
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
        qcow2_header_to_change(q)->autoclear_features = bits;
    return err;
}

typedef struct {
    qimg_be32 n_bitmaps;
    qimg_be32 reserved;
    qimg_be64 directory_bytes;
    qimg_be64 directory_offset;
} ExtensionData;

_Static_assert(sizeof(ExtensionData) == QCOW2_BITMAPS_EXTENSION_BYTES, "on-disk size");

static ExtensionData
encode(const Qcow2BitmapsExtension *e)
{
    return (ExtensionData){qimg_be32_set(e->n_bitmaps), qimg_be32_set(0),
                           qimg_be64_set(e->directory_bytes),
                           qimg_be64_set(e->directory_offset)};
}

/* Overwrites the data of the extension that is there. */
static QimgErrno
replace_data(Qcow2 *q, const Qcow2BitmapsExtension *to)
{
    ExtensionData data = encode(to);
    uint64_t at = q->bitmaps_extension_at;
    bool is_valid = (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) != 0;
    bool is_atomic = at / QIMG_SECTOR_BYTES == (at + sizeof data - 1) / QIMG_SECTOR_BYTES;
    QimgErrno err = is_valid && !is_atomic ? write_autoclear(q, false) : 0;

    if (!err)
        err = qcow2_write_header_field(q, at, &data, sizeof data);
    if (!err && !(is_valid && is_atomic))
        err = write_autoclear(q, true);
    return err;
}

/* Places in the first cluster. */
typedef struct {
    uint64_t end_at; /* of the 8 bytes that end the header extensions */
    uint64_t
        names_at; /* of the table of feature names, if it is the last; 0: it is not */
} Places;

/* Finds the end of the header extensions. */
static QimgErrno
find_end(Qcow2 *q, Places *out)
{
    size_t end = qcow2_header_extensions_end(&q->header);
    size_t position = q->header.header_bytes, at = 0;
    g_autofree uint8_t *bytes = g_try_malloc(end);
    Places places = {0};
    Qcow2Extension e = {.type = QCOW2_EXT_END};
    QimgErrno err =
        bytes ? qimg_storage_read(q->base.file, QIMG_IO_HEADER, qimg_host(0), bytes, end)
              : -ENOMEM;

    if (err)
        return err;
    do {
        places.names_at = e.type == QCOW2_EXT_FEATURE_NAMES ? at : 0;
        at = position;
        if (position > end || qcow2_extension_decode(bytes, end, &position, &e).rule)
            return -EFBIG;
    } while (e.type != QCOW2_EXT_END);
    places.end_at = at;
    *out = places;
    return at % 8 == 0 && at + 8 <= end ? 0 : -EFBIG;
}

/* Copies the name of the backing file behind @end, and makes the header name the copy. */
static QimgErrno
move_backing_name(Qcow2 *q, uint64_t end)
{
    uint64_t old = q->header.backing_name_offset;
    uint64_t n_bytes = q->header.backing_name_bytes;
    uint64_t new = qimg_max_u64(end, old + n_bytes);
    qimg_be64 field;
    QimgErrno err;

    if (old == 0 || n_bytes == 0 || old >= end)
        return 0;
    new = (new + 7) & ~UINT64_C(7);
    if (new + n_bytes > q->geometry.cluster_bytes)
        return -EFBIG;
    err = qimg_storage_write(q->base.file, QIMG_IO_HEADER, qimg_host(new),
                             q->base.backing_name, n_bytes);
    if (!err)
        err = qimg_storage_sync(q->base.file);
    field = qimg_be64_set(new);
    if (!err)
        err = qcow2_write_header_field(q, QCOW2_HEADER_AT_BACKING_NAME, &field,
                                       sizeof field);
    if (!err)
        qcow2_header_to_change(q)->backing_name_offset = new;
    return err;
}

/* Adds the extension, with the mark of the end behind it, in the place of the old mark
 * or, if the cluster has no room for more, of the feature names: they serve messages
 * only. First all that no reader sees yet (as names it would be odd ones), then the 8
 * bytes that begin the extension, then the bit that makes it valid. */
static QimgErrno
add_extension(Qcow2 *q, const Qcow2BitmapsExtension *to)
{
    struct {
        ExtensionData data;
        uint8_t end[8];
    } body = {encode(to), {0}};
    qimg_be32 head[2] = {qimg_be32_set(QCOW2_EXT_BITMAPS),
                         qimg_be32_set(QCOW2_BITMAPS_EXTENSION_BYTES)};
    const uint64_t n_bytes = sizeof head + sizeof body;
    Places places = {0};
    uint64_t at = 0;
    QimgErrno err = find_end(q, &places);

    if (!err) {
        at = places.end_at;
        err = at + n_bytes <= q->geometry.cluster_bytes
                  ? move_backing_name(q, at + n_bytes)
                  : -EFBIG;
    }
    if (err == -EFBIG && places.names_at && places.names_at + n_bytes <= places.end_at) {
        at = places.names_at;
        err = 0;
    }
    if (!err)
        err = qimg_storage_write(q->base.file, QIMG_IO_HEADER,
                                 qimg_host(at + sizeof head), &body, sizeof body);
    if (!err)
        err = qimg_storage_sync(q->base.file);
    if (!err)
        err = qcow2_write_header_field(q, at, head, sizeof head);
    if (err)
        return err;
    q->bitmaps_extension_at = at + sizeof head;
    return write_autoclear(q, true);
}

/* Makes the bitmaps stale, and removes the extension if it is the last one; else it
 * stays, and nothing refers to its directory any more. */
static QimgErrno
remove_extension(Qcow2 *q)
{
    Places places = {0};
    qimg_be64 mark = qimg_be64_set(0);
    QimgErrno err = find_end(q, &places);

    if (!err || err == -EFBIG)
        err = write_autoclear(q, false);
    if (err || places.end_at != q->bitmaps_extension_at + QCOW2_BITMAPS_EXTENSION_BYTES)
        return err;
    err = qcow2_write_header_field(q, q->bitmaps_extension_at - 8, &mark, sizeof mark);
    if (!err)
        q->bitmaps_extension_at = 0;
    return err;
}

QimgErrno
qcow2_switch_bitmap_directory(Qcow2 *q, const Qcow2BitmapsExtension *to)
{
    Qcow2BitmapsExtension old = q->bitmaps;
    bool was_valid = (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) != 0;
    QimgErrno err = 0;

    if (to->n_bitmaps > 0)
        err = q->bitmaps_extension_at ? replace_data(q, to) : add_extension(q, to);
    else if (q->bitmaps_extension_at)
        err = remove_extension(q);
    if (err)
        return err;
    q->bitmaps = *to;
    if (was_valid && old.n_bitmaps > 0) /* a stale directory may be anything */
        qcow2_free_later(q,
                         (QimgClusters){old.directory_offset >> q->geometry.cluster_bits,
                                        qimg_div_round_up(old.directory_bytes,
                                                          q->geometry.cluster_bytes)});
    return 0;
}
