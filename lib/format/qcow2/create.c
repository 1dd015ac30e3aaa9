/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making a new image: header, refcount table, refcount blocks and an empty L1 table, in
 * this order from the start of the file, each whole clusters. Spec: qcow2-write section
 * 14.
 *
 * The blocks lie one behind the other from the first cluster on that they count, so that
 * their entries are one array over all of them. */
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/errors.h"
#include "codec/qcow2-refcounts.h"
#include "format/qcow2/qcow2.h"

/* header_length as QEMU writes it: with compression_type. */
#define NEW_V3_HEADER_BYTES 112u

/* Where the tables go, in clusters. */
typedef struct {
    uint64_t n_table_clusters;
    uint64_t n_blocks;
    uint64_t n_l1_clusters;
    uint64_t n_clusters; /* of the file */
} Layout;

static bool G_GNUC_PRINTF(2, 3) refuse(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (error)
        *error = g_error_new_valist(QIMG_ERROR, QIMG_ERROR_USAGE, format, args);
    va_end(args);
    return false;
}

/* What version 2 cannot express. */
static bool
check_version(const QimgCreateOptions *o, GError **error)
{
    const char *field = NULL;

    if (o->version == 3)
        return true;
    if (o->version != 2)
        return refuse(error, "version: %s", qimg_rule_text(QIMG_RULE_VERSION));
    if (o->refcount_order != 4)
        field = "a refcount_order other than 4 (16 bits)";
    else if (o->compression != QIMG_CODEC_DEFLATE)
        field = "a compression_type other than deflate";
    else if (o->extended_l2)
        field = "extended L2 entries";
    else if (o->lazy_refcounts)
        field = "lazy refcounts";
    else if (o->data_file_name)
        field = "an external data file";
    return !field || refuse(error, "version: must be 3 for %s", field);
}

static bool
check_names(const QimgCreateOptions *o, GError **error)
{
    size_t name_bytes = o->backing_name ? strlen(o->backing_name) : 0;
    size_t format_bytes = o->backing_format ? strlen(o->backing_format) : 0;

    if (o->backing_name && (name_bytes == 0 || name_bytes > QCOW2_MAX_BACKING_NAME))
        return refuse(error, "backing file name: has %zu bytes, and must have 1 to %u",
                      name_bytes, QCOW2_MAX_BACKING_NAME);
    if (o->backing_format && !o->backing_name)
        return refuse(error, "backing format: needs a backing file name");
    if (o->backing_format &&
        (format_bytes == 0 || format_bytes > QCOW2_MAX_BACKING_FORMAT))
        return refuse(error, "backing format: has %zu bytes, and must have 1 to %u",
                      format_bytes, QCOW2_MAX_BACKING_FORMAT);
    if (o->data_file_name && !*o->data_file_name)
        return refuse(error, "data file name: is empty");
    if (o->data_file_raw && !o->data_file_name)
        return refuse(error, "raw data file: needs a data file name");
    if (o->data_file_raw && o->backing_name)
        return refuse(error,
                      "raw data file: cannot be had with a backing file, whose data "
                      "would not be in it");
    return true;
}

/* The header without what follows from the layout, its fields checked alone. */
static bool
make_header(const QimgCreateOptions *o, Qcow2Header *out, GError **error)
{
    Qcow2Header h = {
        .version = o->version,
        .cluster_bits = o->cluster_bits,
        .size_bytes = o->size_bytes,
        .refcount_order = o->refcount_order,
        .header_bytes = o->version == 2 ? QCOW2_V2_HEADER_BYTES : NEW_V3_HEADER_BYTES,
        .compression_type = o->compression == QIMG_CODEC_ZSTD ? QCOW2_COMPRESSION_ZSTD
                                                              : QCOW2_COMPRESSION_DEFLATE,
    };
    Qcow2Geometry geometry;
    uint64_t n_l1_entries;

    if (!check_version(o, error) || !check_names(o, error))
        return false;
    if (o->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        o->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
        return refuse(error, "cluster_bits: is %u and %s", o->cluster_bits,
                      qimg_rule_text(QIMG_RULE_CLUSTER_BITS));
    if (o->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
        return refuse(error, "refcount_order: is %u and %s", o->refcount_order,
                      qimg_rule_text(QIMG_RULE_REFCOUNT_ORDER));
    if (o->extended_l2 && o->cluster_bits < QCOW2_MIN_EXTENDED_CLUSTER_BITS)
        return refuse(error, "cluster_bits: is %u and %s", o->cluster_bits,
                      qimg_rule_text(QIMG_RULE_SUBCLUSTER_SIZE));
    if (o->extended_l2)
        h.incompatible_features |= QCOW2_INCOMPAT_EXTENDED_L2;
    if (h.compression_type != QCOW2_COMPRESSION_DEFLATE)
        h.incompatible_features |= QCOW2_INCOMPAT_COMPRESSION;
    if (o->data_file_name)
        h.incompatible_features |= QCOW2_INCOMPAT_DATA_FILE;
    if (o->lazy_refcounts)
        h.compatible_features |= QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (o->data_file_raw)
        h.autoclear_features |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (!qimg_is_aligned(o->size_bytes, QIMG_SECTOR_BYTES))
        return refuse(error, "size: is %" PRIu64 " and must be a multiple of %u",
                      o->size_bytes, QIMG_SECTOR_BYTES);
    geometry = qcow2_geometry_of(&h);
    n_l1_entries = qcow2_geometry_l1_entries_for(&geometry, o->size_bytes);
    if (n_l1_entries > QCOW2_MAX_L1_BYTES / 8) /* 2^61 bytes with the largest clusters */
        return refuse(error,
                      "size: is %" PRIu64 ", and with clusters of %" PRIu64
                      " bytes an image maps at most %" PRIu64
                      " bytes (use larger clusters)",
                      o->size_bytes, geometry.cluster_bytes,
                      QCOW2_MAX_L1_BYTES / 8 << geometry.l1_shift);
    h.n_l1_entries = (uint32_t)n_l1_entries;
    *out = h;
    return true;
}

/* Blocks count all clusters, themselves and the table of them too: their number is the
 * smallest that serves. Puts the places into @h. */
static Layout
lay_out(Qcow2Header *h)
{
    uint64_t cluster_bytes = UINT64_C(1) << h->cluster_bits;
    uint64_t n_per_block = qcow2_refcounts_per_block(h->cluster_bits, h->refcount_order);
    Layout l = {
        .n_table_clusters = 1,
        .n_blocks = 1,
        .n_l1_clusters = qimg_div_round_up(UINT64_C(8) * h->n_l1_entries, cluster_bytes),
    };

    for (;;) {
        uint64_t n_blocks;

        l.n_clusters = 1 + l.n_table_clusters + l.n_blocks + l.n_l1_clusters;
        n_blocks = qimg_div_round_up(l.n_clusters, n_per_block);
        if (n_blocks == l.n_blocks)
            break;
        l.n_blocks = n_blocks;
        l.n_table_clusters = qimg_div_round_up(8 * n_blocks, cluster_bytes);
    }
    h->refcount_table_offset = cluster_bytes;
    h->n_refcount_table_clusters = (uint32_t)l.n_table_clusters;
    /* An empty disk has no L1 table, and no place for one. */
    if (l.n_l1_clusters > 0)
        h->l1_table_offset = (l.n_clusters - l.n_l1_clusters) * cluster_bytes;
    return l;
}

static bool
encode_text_extension(uint32_t type, const char *text, GByteArray *cluster,
                      size_t *position)
{
    Qcow2Extension e = {.type = type, .data = (const uint8_t *)text};

    if (!text)
        return true;
    e.data_bytes = (uint32_t)qimg_min_u64(strlen(text), UINT32_MAX);
    return qcow2_extension_encode(&e, cluster->data, cluster->len, position);
}

/* The first cluster: header, extensions, backing file name. */
static GByteArray *
encode_header_cluster(const QimgCreateOptions *o, Qcow2Header *h, GError **error)
{
    static const Qcow2Extension end_mark = {.type = QCOW2_EXT_END};
    size_t name_bytes = o->backing_name ? strlen(o->backing_name) : 0;
    size_t position = h->header_bytes;
    uint8_t names[QCOW2_FEATURE_NAME_TABLE_BYTES];
    Qcow2Extension name_table = {
        .type = QCOW2_EXT_FEATURE_NAMES, .data = names, .data_bytes = sizeof names};
    g_autoptr(GByteArray) cluster = g_byte_array_new();
    bool fits;

    g_byte_array_set_size(cluster, 1u << h->cluster_bits);
    memset(cluster->data, 0, cluster->len);
    qcow2_feature_names_encode(names);
    fits =
        encode_text_extension(QCOW2_EXT_BACKING_FORMAT, o->backing_format, cluster,
                              &position) &&
        encode_text_extension(QCOW2_EXT_DATA_FILE, o->data_file_name, cluster, &position);
    /* For messages only: left out where it would take the place of what matters. */
    if (fits && h->version >= 3 &&
        position + 8 + sizeof names + 8 + name_bytes <= cluster->len)
        fits =
            qcow2_extension_encode(&name_table, cluster->data, cluster->len, &position);
    fits = fits &&
           qcow2_extension_encode(&end_mark, cluster->data, cluster->len, &position) &&
           qimg_range_fits(position, name_bytes, cluster->len);
    if (fits && name_bytes > 0) {
        memcpy(cluster->data + position, o->backing_name, name_bytes);
        h->backing_name_offset = position;
        h->backing_name_bytes = (uint32_t)name_bytes;
    }
    if (fits && qcow2_header_encode(h, cluster->data, cluster->len))
        return g_steal_pointer(&cluster);
    refuse(
        error,
        "names of the backing file and data file: do not fit in the header's cluster of "
        "%u bytes (use larger clusters or shorter names)",
        cluster->len);
    return NULL;
}

/* Writes the refcount table and what the blocks count: each cluster of the file once. The
 * file is zeros so far. */
static QimgErrno
write_refcounts(QimgStorage *file, const Qcow2Header *h, const Layout *l)
{
    uint64_t cluster_bytes = UINT64_C(1) << h->cluster_bits;
    uint64_t blocks_offset = (1 + l->n_table_clusters) * cluster_bytes;
    size_t counts_bytes =
        qimg_div_round_up(l->n_clusters << h->refcount_order, 8 /* bits */);
    g_autofree qimg_be64 *table = g_new(qimg_be64, l->n_blocks);
    g_autofree uint8_t *counts = g_malloc0(counts_bytes);
    QimgErrno err;

    for (uint64_t i = 0; i < l->n_blocks; i++)
        table[i] = qimg_be64_set(blocks_offset + i * cluster_bytes);
    for (uint64_t i = 0; i < l->n_clusters; i++)
        qcow2_refcount_encode(counts, h->refcount_order, i, 1);
    err = qimg_storage_write(file, QIMG_IO_REFCOUNT_TABLE,
                             qimg_host(h->refcount_table_offset), table,
                             l->n_blocks * sizeof *table);
    if (err)
        return err;
    return qimg_storage_write(file, QIMG_IO_REFCOUNT, qimg_host(blocks_offset), counts,
                              counts_bytes);
}

/* Makes the first @n_bytes of the file zeros, and nothing else, the header first: from
 * then on it is no image of any kind. */
static QimgErrno
empty_file(QimgStorage *file, uint64_t n_bytes)
{
    uint64_t old_bytes = 0;
    QimgErrno err = qimg_storage_get_size(file, &old_bytes);

    if (!err && old_bytes > 0) {
        err = qimg_storage_zero(file, QIMG_IO_HEADER, qimg_host(0), QIMG_SECTOR_BYTES);
        if (!err)
            err = qimg_storage_sync(file);
        if (!err)
            err = qimg_storage_set_size(file, 0);
    }
    if (!err)
        err = qimg_storage_set_size(file, n_bytes);
    /* A device is as long as it is, and keeps what it holds. */
    if (!err && old_bytes > 0)
        err = qimg_storage_zero(file, QIMG_IO_HEADER, qimg_host(0), n_bytes);
    return err;
}

bool
qcow2_create(QimgStorage *file, const QimgCreateOptions *options, GError **error)
{
    g_autoptr(GByteArray) cluster = NULL;
    Qcow2Header header;
    Layout layout;
    QimgErrno err;

    if (!make_header(options, &header, error))
        return false;
    layout = lay_out(&header);
    cluster = encode_header_cluster(options, &header, error);
    if (!cluster)
        return false;
    err = empty_file(file, layout.n_clusters << header.cluster_bits);
    if (!err)
        err = write_refcounts(file, &header, &layout);
    if (!err)
        err = qimg_storage_sync(file);
    if (!err)
        err = qimg_storage_write(file, QIMG_IO_HEADER, qimg_host(0), cluster->data,
                                 cluster->len);
    if (!err)
        err = qimg_storage_sync(file);
    if (err)
        qimg_set_error_errno(error, -err, NULL, "cannot write the new image");
    return !err;
}
