/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation of a new image: the header's cluster with the backing file's name, and an
 * empty L1 table. Spec: qed section 7. */
#include "format/qed/create.h"

#include <string.h>

#include "base/checked.h"
#include "base/errors.h"

#define DEFAULT_TABLE_CLUSTERS 4u

/* QEMU computes the largest disk in 64 bits, and rejects a table whose last cluster is
 * its first as one that wraps around. Such images can be read, but not created. */
static bool
can_be_opened_by_others(const QedHeader *h, GError **error)
{
    unsigned table_bits = (unsigned)__builtin_ctz(h->table_clusters);

    if (h->table_clusters == 1)
        return qimg_misuse(error,
                           "table_size: is 1, and QEMU opens no such image (give 2 to "
                           "16)");
    /* cluster_bits, and two tables whose index has 3 bits less than their size in
     * bytes */
    if (3 * h->cluster_bits + 2 * table_bits - 6 >= 64)
        return qimg_misuse(
            error,
            "cluster_size: is too large for QEMU with tables of %u clusters "
            "(use smaller clusters or tables)",
            h->table_clusters);
    return true;
}

/* The header of the new image, its fields checked. */
static bool
qed_make_header(const QimgCreateOptions *o, QedHeader *out, GError **error)
{
    size_t name_bytes = o->backing_name ? strlen(o->backing_name) : 0;
    QedHeader h = {
        .cluster_bits = o->cluster_bits,
        .table_clusters = o->table_clusters ? o->table_clusters : DEFAULT_TABLE_CLUSTERS,
        .header_clusters = 1,
        .size_bytes = o->size_bytes,
    };
    uint8_t bytes[QED_HEADER_BYTES];
    QimgDecode decoded;

    if (h.cluster_bits < QED_MIN_CLUSTER_BITS || h.cluster_bits > QED_MAX_CLUSTER_BITS)
        return qimg_misuse(error, "cluster_size: %s",
                           qimg_rule_text(QIMG_RULE_QED_CLUSTER_SIZE));
    if (!can_be_opened_by_others(&h, error))
        return false;
    h.l1_table_offset = qed_header_end(&h);
    if (o->backing_name) {
        h.features |= QED_FEATURE_BACKING;
        /* Other formats cannot be recorded: they are probed. */
        if (g_strcmp0(o->backing_format, "raw") == 0)
            h.features |= QED_FEATURE_BACKING_RAW;
        h.backing_name_offset = QED_HEADER_BYTES;
        h.backing_name_bytes = (uint32_t)name_bytes;
    }
    if (o->backing_name && (name_bytes == 0 || name_bytes > QED_MAX_BACKING_NAME ||
                            QED_HEADER_BYTES + name_bytes > qed_header_end(&h)))
        return qimg_misuse(
            error, "backing_file: has %zu bytes, and must have 1 to %" PRIu64, name_bytes,
            qimg_min_u64(QED_MAX_BACKING_NAME, qed_header_end(&h) - QED_HEADER_BYTES));
    if (o->preallocation != QIMG_PREALLOCATION_OFF)
        return qimg_misuse(error, "preallocation: a QED image has none (leave it out)");
    /* The decoder checks the rest. */
    qed_header_encode(&h, bytes);
    decoded = qed_header_decode(bytes, sizeof bytes, out);
    if (decoded.rule == QIMG_RULE_QED_IMAGE_SIZE)
        return qimg_misuse(error,
                           "size: is more than the tables can map (at most %" PRIu64
                           " bytes with these; give a larger cluster_size or table_size)",
                           qed_max_size_bytes(&h));
    if (decoded.rule)
        return qimg_misuse(error, "%s: %s", qimg_rule_field(decoded.rule),
                           qimg_rule_text(decoded.rule));
    return true;
}

bool
qed_check_create(const QimgCreateOptions *options, GError **error)
{
    QedHeader header;

    return qed_make_header(options, &header, error);
}

bool
qed_create(QimgStorage *file, const QimgCreateOptions *options, GError **error)
{
    g_autofree uint8_t *bytes = NULL;
    size_t n_bytes = QED_HEADER_BYTES;
    QedHeader h;
    QimgErrno err;

    if (!qed_make_header(options, &h, error))
        return false;
    bytes = g_malloc0(QED_HEADER_BYTES + QED_MAX_BACKING_NAME);
    qed_header_encode(&h, bytes);
    if (options->backing_name) {
        memcpy(bytes + QED_HEADER_BYTES, options->backing_name, h.backing_name_bytes);
        n_bytes += h.backing_name_bytes;
    }
    /* The L1 table is the zeros of a longer file. */
    err = qimg_storage_set_size(file, 0);
    if (!err)
        err = qimg_storage_set_size(file, h.l1_table_offset + qed_table_bytes(&h));
    if (!err)
        err = qimg_storage_sync(file);
    if (!err)
        err = qimg_storage_write(file, QIMG_IO_HEADER, qimg_host(0), bytes, n_bytes);
    if (!err)
        err = qimg_storage_sync(file);
    if (err)
        qimg_set_error_errno(error, -err, NULL, "cannot write the new image");
    return !err;
}
