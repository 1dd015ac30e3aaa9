/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header's area: the fields, then the extensions, then a name somewhere in the first
 * cluster. A disk may tear a longer write at any sector, so everything that one change
 * needs lies in the first sector, except the backing file's name, which gets a place that
 * the old header does not use. */
#include "format/qcow2/layer/header-area.h"

#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "format/qcow2/layer/header-io.h"

#define NEW_V3_HEADER_BYTES 112u /* with compression_type, as QEMU writes it */

typedef struct {
    Qcow2 *q;
    Qcow2Header header; /* the new one */
    const char *backing_name, *backing_format, *data_file_name;
    uint8_t *old; /* owned: the first cluster */
    size_t cluster_bytes;
    size_t old_list_end; /* of the old extensions */
    uint8_t sector[QIMG_SECTOR_BYTES];
    size_t extensions_end; /* of the new ones, with the end mark */
} Area;

/* Appends @extension to the new ones; false if it, or the end mark behind it, would leave
 * the sector. */
static bool
put_extension(Area *a, const Qcow2Extension *extension)
{
    return qcow2_extension_encode(extension, a->sector,
                                  QIMG_SECTOR_BYTES - 2 * sizeof(uint32_t),
                                  &a->extensions_end);
}

static bool
put_text_extension(Area *a, uint32_t type, const char *text)
{
    Qcow2Extension e = {.type = type, .data = (const uint8_t *)text};

    if (!text)
        return true;
    e.data_bytes = (uint32_t)qimg_min_u64(strlen(text), UINT32_MAX);
    return put_extension(a, &e);
}

/* Copies the other extensions of the old header, and notes their end. The layer was
 * opened, so they are sound. */
static bool
put_old_extensions(Area *a, Qcow2Extension *feature_names_out)
{
    const Qcow2Header *old = &a->q->header;
    size_t end = qimg_min_u64(qcow2_header_extensions_end(old), a->cluster_bytes);
    size_t position = old->header_bytes;
    bool fits = true;
    Qcow2Extension e;

    for (;;) {
        if (qcow2_extension_decode(a->old, end, &position, &e).rule ||
            e.type == QCOW2_EXT_END)
            break;
        if (e.type == QCOW2_EXT_FEATURE_NAMES)
            *feature_names_out = e;
        else if (e.type != QCOW2_EXT_BACKING_FORMAT && e.type != QCOW2_EXT_DATA_FILE)
            fits = fits && put_extension(a, &e);
    }
    a->old_list_end = qimg_min_u64(position, a->cluster_bytes);
    return fits;
}

static bool
put_extensions(Area *a)
{
    static const Qcow2Extension end_mark = {.type = QCOW2_EXT_END};
    uint8_t known_names[QCOW2_FEATURE_NAME_TABLE_BYTES];
    Qcow2Extension names = {.type = QCOW2_EXT_FEATURE_NAMES,
                            .data = known_names,
                            .data_bytes = sizeof known_names};

    qcow2_feature_names_encode(known_names);
    a->extensions_end = a->header.header_bytes;
    if (!put_text_extension(a, QCOW2_EXT_BACKING_FORMAT, a->backing_format) ||
        !put_text_extension(a, QCOW2_EXT_DATA_FILE, a->data_file_name) ||
        !put_old_extensions(a, &names))
        return false;
    if (a->header.version >= 3) /* for messages only */
        (void)!put_extension(a, &names);
    return qcow2_extension_encode(&end_mark, a->sector, QIMG_SECTOR_BYTES,
                                  &a->extensions_end);
}

/* Whether [@place, + @n_bytes) lies in the first cluster, outside of the parts that the
 * old header uses there. */
static bool
is_place_free(const Area *a, size_t place, size_t n_bytes)
{
    const Qcow2Header *old = &a->q->header;

    return qimg_range_fits(place, n_bytes, a->cluster_bytes) &&
           place >= a->old_list_end &&
           (place + n_bytes <= old->backing_name_offset ||
            place >= old->backing_name_offset + old->backing_name_bytes);
}

/* Chooses the name's place: in the sector, or else where the old header has nothing. */
static bool
place_name(Area *a)
{
    size_t n_bytes = a->backing_name ? strlen(a->backing_name) : 0;
    const size_t places[] = {
        QIMG_SECTOR_BYTES,
        qimg_align_down(a->old_list_end + 7, 8),
        qimg_align_down(
            a->q->header.backing_name_offset + a->q->header.backing_name_bytes + 7, 8),
    };

    a->header.backing_name_offset = a->header.backing_name_bytes = 0;
    if (n_bytes == 0)
        return true;
    a->header.backing_name_bytes = (uint32_t)n_bytes;
    if (qimg_range_fits(a->extensions_end, n_bytes, QIMG_SECTOR_BYTES)) {
        a->header.backing_name_offset = a->extensions_end;
        memcpy(a->sector + a->extensions_end, a->backing_name, n_bytes);
        return true;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        if (places[i] >= QIMG_SECTOR_BYTES && is_place_free(a, places[i], n_bytes)) {
            a->header.backing_name_offset = places[i];
            return true;
        }
    }
    return false;
}

/* Makes the new sector. */
static bool
encode_area(Area *a)
{
    Qcow2Header decoded;

    if (a->header.version < 3)
        a->header.header_bytes = QCOW2_V2_HEADER_BYTES;
    else if (a->q->header.version < 3)
        a->header.header_bytes = NEW_V3_HEADER_BYTES;
    if (a->header.header_bytes > QIMG_SECTOR_BYTES)
        return false;
    /* Fields behind the known ones stay. */
    if (a->header.version >= 3 && a->q->header.version >= 3)
        memcpy(a->sector, a->old, a->header.header_bytes);
    return put_extensions(a) && place_name(a) &&
           qcow2_header_encode(&a->header, a->sector, sizeof a->sector) &&
           qcow2_header_decode(a->sector, a->cluster_bytes, &decoded).rule ==
               QIMG_RULE_OK;
}

/* The bitmaps extension has moved: later changes of bitmaps write there. */
static void
find_bitmaps_extension(Area *a)
{
    size_t position = a->header.header_bytes;
    Qcow2Extension e;

    while (!qcow2_extension_decode(a->sector, a->extensions_end, &position, &e).rule &&
           e.type != QCOW2_EXT_END)
        if (e.type == QCOW2_EXT_BITMAPS)
            a->q->bitmaps_extension_at = (uint64_t)(e.data - a->sector);
}

static QimgErrno
store_area(Area *a)
{
    QimgStorage *file = a->q->base.file;
    uint64_t name = a->header.backing_name_offset, n_bytes = a->header.backing_name_bytes;
    QimgErrno err = 0;

    if (name >= QIMG_SECTOR_BYTES)
        err = qimg_storage_write(file, QIMG_IO_HEADER, qimg_host(name), a->backing_name,
                                 n_bytes);
    if (!err)
        err = qimg_storage_sync(file);
    if (!err)
        err = qcow2_write_header_field(a->q, 0, a->sector, sizeof a->sector);
    return err;
}

bool
qcow2_replace_header(Qcow2 *q, const Qcow2Header *header, const char *backing_name,
                     const char *backing_format, const char *data_file_name,
                     GError **error)
{
    Area a = {
        .q = q,
        .header = *header,
        .backing_name = backing_name,
        .backing_format = backing_format,
        .data_file_name = data_file_name,
        .cluster_bytes = q->geometry.cluster_bytes,
    };
    QimgErrno err;

    a.header.incompatible_features = qcow2_get_incompatible(q);
    a.old = g_try_malloc0(a.cluster_bytes);
    err = a.old ? qimg_storage_read(q->base.file, QIMG_IO_HEADER, qimg_host(0), a.old,
                                    a.cluster_bytes)
                : -ENOMEM;
    if (!err && !encode_area(&a)) {
        g_free(a.old);
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "header: its extensions and names do not fit where they can be "
                       "changed safely: the first %u bytes, and a free part of the first "
                       "cluster for the backing file's name (use shorter names, or copy "
                       "the image)",
                       QIMG_SECTOR_BYTES);
        return false;
    }
    if (!err)
        err = store_area(&a);
    if (!err) {
        find_bitmaps_extension(&a);
        *qcow2_header_to_change(q) = a.header;
    }
    g_free(a.old);
    if (err)
        qimg_set_error_errno(error, -err, NULL, "cannot write the header");
    return !err;
}
