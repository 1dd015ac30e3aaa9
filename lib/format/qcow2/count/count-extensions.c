/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counts the references of header extensions: bitmaps, and the header of the encryption.
 * Spec: bitmaps sections 1 to 3, encryption section 3. */
#include "format/qcow2/count/count-extensions.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-bitmaps.h"
#include "format/qcow2/count/count-walk.h"

#define KNOWN_HEADER_BYTES   112u /* with the compression type */
#define KNOWN_AUTOCLEAR_BITS (QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_DATA_FILE_RAW)

static QimgErrno
count_bitmap_table(Qcow2Walk *w, const Qcow2BitmapEntry *bitmap)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t n;

    if (!qcow2_walk_table(w, bitmap->table_offset, (uint64_t)bitmap->n_table_entries * 8))
        return 0;
    for (uint64_t i = 0; i < bitmap->n_table_entries; i += n) {
        QimgErrno err;

        n = qimg_min_u64(bitmap->n_table_entries - i, QCOW2_WALK_READ_BYTES / 8);
        err = qcow2_walk_read(w, QIMG_IO_BITMAP, bitmap->table_offset + i * 8, n);
        if (err)
            return qcow2_walk_error(w, err, bitmap->table_offset);
        for (uint64_t j = 0; j < n; j++) {
            uint64_t host_offset = 0;

            if (qcow2_bitmap_table_entry_decode(w->buffer[j], g->cluster_bytes,
                                                &host_offset)
                    .rule)
                qcow2_walk_unread(w, QIMG_RULE_BITMAP_TABLE, bitmap->table_offset);
            else if (host_offset != 0)
                (void)qcow2_walk_alone(w, host_offset, g->cluster_bytes);
        }
    }
    return 0;
}

static void
unref_bytes(gpointer data)
{
    g_bytes_unref(data);
}

/* Counts the table and the data of one bitmap, as far as they are known. A damaged one
 * may also refer to other clusters, so none is a leak then. */
static QimgErrno
count_bitmap(Qcow2Walk *w, const Qcow2BitmapEntry *bitmap, const uint8_t *name,
             uint64_t host_offset)
{
    uint64_t cluster_bytes = w->q->geometry.cluster_bytes;
    QimgRule table_rule = qcow2_bitmap_entry_check_table(bitmap, cluster_bytes).rule;
    QimgRule rule = qcow2_bitmap_entry_check_fields(bitmap, name).rule;

    if (!rule)
        rule = table_rule;
    if (!rule)
        rule =
            qcow2_bitmap_entry_check_size(bitmap, w->q->header.size_bytes, cluster_bytes)
                .rule;
    if (rule)
        qcow2_walk_unread(w, rule, host_offset);
    return table_rule ? 0 : count_bitmap_table(w, bitmap);
}

/* Counts the directory, the tables and the data of all bitmaps. */
static QimgErrno
count_bitmaps(Qcow2Walk *w, const Qcow2Extension *extension)
{
    uint64_t cluster_bytes = w->q->geometry.cluster_bytes;
    g_autofree uint8_t *directory = NULL;
    g_autoptr(GHashTable) names =
        g_hash_table_new_full(g_bytes_hash, g_bytes_equal, unref_bytes, NULL);
    Qcow2BitmapsExtension e;
    uint64_t at = 0;
    QimgErrno err;

    if (qcow2_bitmaps_extension_decode(extension->data, extension->data_bytes,
                                       cluster_bytes, &e)
            .rule) {
        qcow2_walk_unread(w, QIMG_RULE_BITMAP_DIRECTORY, 0);
        return 0;
    }
    if (!qcow2_walk_table(w, e.directory_offset, e.directory_bytes))
        return 0;
    directory = g_try_malloc(e.directory_bytes);
    if (!directory)
        return -ENOMEM;
    err = qimg_storage_read(w->q->base.file, QIMG_IO_BITMAP,
                            qimg_host(e.directory_offset), directory, e.directory_bytes);
    if (err)
        return qcow2_walk_error(w, err, e.directory_offset);
    for (uint32_t i = 0; !err && i < e.n_bitmaps; i++) {
        Qcow2BitmapEntry bitmap;
        const uint8_t *name;

        if (qcow2_bitmap_entry_decode(directory + at, e.directory_bytes - at, &bitmap)
                .rule) {
            qcow2_walk_unread(w, QIMG_RULE_BITMAP_DIRECTORY, e.directory_offset + at);
            return 0;
        }
        name = directory + at + bitmap.name_position;
        if (!g_hash_table_add(names, g_bytes_new_static(name, bitmap.name_bytes)))
            qcow2_walk_unread(w, QIMG_RULE_BITMAP_NAME_TWICE, e.directory_offset + at);
        err = count_bitmap(w, &bitmap, name, e.directory_offset + at);
        at += bitmap.entry_bytes;
    }
    if (!err && at != e.directory_bytes)
        qcow2_walk_unread(w, QIMG_RULE_BITMAP_DIRECTORY, e.directory_offset);
    return err;
}

/* Counts the area of the LUKS header and its key material. Spec: encryption section 3. */
static void
count_encryption_header(Qcow2Walk *w, const Qcow2Extension *extension)
{
    qimg_be64 fields[2];
    uint64_t host_offset;

    if (extension->data_bytes == sizeof fields) {
        memcpy(fields, extension->data, sizeof fields);
        host_offset = qimg_be64_get(fields[0]);
        if (host_offset != 0 &&
            qimg_is_aligned(host_offset, w->q->geometry.cluster_bytes)) {
            (void)qcow2_walk_table(w, host_offset, qimg_be64_get(fields[1]));
            return;
        }
    }
    qcow2_walk_unread(w, QIMG_RULE_ENCRYPTION_HEADER, 0);
}

QimgErrno
qcow2_walk_extensions(Qcow2Walk *w)
{
    const Qcow2Header *h = &w->q->header;
    size_t end = qimg_min_u64(qcow2_header_extensions_end(h), w->end_bytes);
    size_t position = h->header_bytes;
    g_autofree uint8_t *bytes = g_try_malloc(end);
    Qcow2Extension e;
    uint64_t n_unread;
    QimgErrno err;

    if (!bytes)
        return -ENOMEM;
    w->counts->has_unknown_owner =
        h->header_bytes > KNOWN_HEADER_BYTES ||
        (h->incompatible_features & ~(uint64_t)QCOW2_INCOMPAT_KNOWN) != 0 ||
        (h->compatible_features & ~(uint64_t)QCOW2_COMPAT_LAZY_REFCOUNTS) != 0 ||
        (h->autoclear_features & ~(uint64_t)KNOWN_AUTOCLEAR_BITS) != 0;
    err = qimg_storage_read(w->q->base.file, QIMG_IO_HEADER, qimg_host(0), bytes, end);
    while (!err) {
        if (qcow2_extension_decode(bytes, end, &position, &e).rule) {
            qcow2_walk_unread(w, QIMG_RULE_EXTENSION_BOUNDS, position);
            return 0;
        }
        if (e.type == QCOW2_EXT_END)
            return 0;
        n_unread = w->counts->n_unread;
        if (e.type == QCOW2_EXT_BITMAPS &&
            (w->options->counts_stale_bitmaps ||
             (h->autoclear_features & QCOW2_AUTOCLEAR_BITMAPS)))
            err = count_bitmaps(w, &e);
        else if (e.type == QCOW2_EXT_ENCRYPTION && h->crypt_method == QCOW2_CRYPT_LUKS)
            count_encryption_header(w, &e);
        else if (e.type != QCOW2_EXT_BITMAPS && e.type != QCOW2_EXT_BACKING_FORMAT &&
                 e.type != QCOW2_EXT_FEATURE_NAMES && e.type != QCOW2_EXT_DATA_FILE)
            w->counts->has_unknown_owner = true;
        if (e.type == QCOW2_EXT_BITMAPS && w->counts->n_unread > n_unread)
            w->counts->has_damaged_bitmaps = true;
    }
    return err;
}
