/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation of a new image: header, refcount table, refcount blocks, L1 table, if the disk
 * is encrypted the LUKS header with its key material, and, if it is preallocated, all L2
 * tables and all data clusters, in this order from the start of the file, each whole
 * clusters. Spec: qcow2-write sections 10 and 14, encryption section 3.
 *
 * Tables of a kind are contiguous and in the order of the clusters that they map, so that
 * their entries form one array. */
#include "format/qcow2/create.h"

#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/errors.h"
#include "codec/qcow2-refcounts.h"
#include "codec/qcow2-tables.h"

/* header_length as QEMU writes it: with compression_type. */
#define NEW_V3_HEADER_BYTES 112u

/* Part of an array that is written at once. */
#define PART_BYTES QIMG_MIB

/* The places of the tables, in clusters. */
typedef struct {
    uint64_t n_table_clusters;
    uint64_t n_blocks;
    uint64_t n_l1_clusters;
    uint64_t n_luks_clusters;
    uint64_t n_l2_tables;
    uint64_t n_mapped;        /* clusters of the disk with an L2 entry */
    uint64_t n_data_clusters; /* in this file */
    uint64_t n_clusters;      /* of the file */
} Layout;

/* Refuses properties that version 2 cannot express. */
static bool
check_version(const QimgCreateOptions *o, GError **error)
{
    const char *field = NULL;

    if (o->version == 3)
        return true;
    if (o->version != 2)
        return qimg_misuse(error, "version: %s", qimg_rule_text(QIMG_RULE_VERSION));
    if (o->refcount_order != 4)
        field = "refcount_bits other than 16";
    else if (o->compression != QIMG_CODEC_DEFLATE)
        field = "a compression_type other than zlib";
    else if (o->extended_l2)
        field = "extended_l2";
    else if (o->lazy_refcounts)
        field = "lazy_refcounts";
    else if (o->data_file_name)
        field = "a data_file";
    return !field || qimg_misuse(error, "version: must be 3 for %s", field);
}

static bool
check_names(const QimgCreateOptions *o, GError **error)
{
    size_t name_bytes = o->backing_name ? strlen(o->backing_name) : 0;
    size_t format_bytes = o->backing_format ? strlen(o->backing_format) : 0;

    if (o->backing_name && (name_bytes == 0 || name_bytes > QCOW2_MAX_BACKING_NAME))
        return qimg_misuse(error, "backing_file: has %zu bytes, and must have 1 to %u",
                           name_bytes, QCOW2_MAX_BACKING_NAME);
    if (o->backing_format && !o->backing_name)
        return qimg_misuse(error, "backing_fmt: needs a backing_file");
    if (o->backing_format &&
        (format_bytes == 0 || format_bytes > QCOW2_MAX_BACKING_FORMAT))
        return qimg_misuse(error, "backing_fmt: has %zu bytes, and must have 1 to %u",
                           format_bytes, QCOW2_MAX_BACKING_FORMAT);
    if (o->data_file_name && !*o->data_file_name)
        return qimg_misuse(error, "data_file: is empty");
    if (o->data_file_raw && !o->data_file_name)
        return qimg_misuse(error, "data_file_raw: needs a data_file");
    if (o->data_file_raw && o->backing_name)
        return qimg_misuse(error,
                           "data_file_raw: cannot be had with a backing_file, whose data "
                           "would not be in it");
    /* A mapped cluster hides the layer below, unless subclusters say otherwise. */
    if (o->preallocation != QIMG_PREALLOCATION_OFF && o->backing_name && !o->extended_l2)
        return qimg_misuse(error, "preallocation: needs extended_l2 with a backing_file");
    return true;
}

/* Refuses properties that encrypted disks cannot have. */
static bool
check_encryption(const QimgCreateOptions *o, GError **error)
{
    if (!o->luks)
        return true;
    if (o->data_file_raw)
        return qimg_misuse(error,
                           "data_file_raw: cannot be had with encrypt.format, since "
                           "the data file would be no raw disk (leave it out)");
    if (o->preallocation != QIMG_PREALLOCATION_OFF)
        return qimg_misuse(error,
                           "preallocation: cannot be had with encrypt.format, since the "
                           "disk would read as noise, not as zeros (leave it out)");
    return true;
}

/* The header, except the fields that depend on the layout, with only its fields
 * checked. */
static bool
qcow2_make_header(const QimgCreateOptions *o, Qcow2Header *out, GError **error)
{
    Qcow2Header h = {
        .version = o->version,
        .cluster_bits = o->cluster_bits,
        .size_bytes = o->size_bytes,
        .crypt_method = o->luks ? QCOW2_CRYPT_LUKS : QCOW2_CRYPT_NONE,
        .refcount_order = o->refcount_order,
        .header_bytes = o->version == 2 ? QCOW2_V2_HEADER_BYTES : NEW_V3_HEADER_BYTES,
        .compression_type = o->compression == QIMG_CODEC_ZSTD ? QCOW2_COMPRESSION_ZSTD
                                                              : QCOW2_COMPRESSION_DEFLATE,
    };
    Qcow2Geometry geometry;
    uint64_t n_l1_entries;

    if (!check_version(o, error) || !check_names(o, error) || !check_encryption(o, error))
        return false;
    if (o->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        o->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
        return qimg_misuse(error, "cluster_size: must be a power of two from 512 to 2M");
    if (o->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
        return qimg_misuse(error, "refcount_order: is %u and %s", o->refcount_order,
                           qimg_rule_text(QIMG_RULE_REFCOUNT_ORDER));
    if (o->extended_l2 && o->cluster_bits < QCOW2_MIN_EXTENDED_CLUSTER_BITS)
        return qimg_misuse(error,
                           "cluster_size: is %u and must be at least %u with extended_l2",
                           1u << o->cluster_bits, 1u << QCOW2_MIN_EXTENDED_CLUSTER_BITS);
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
        return qimg_misuse(error, "size: is %" PRIu64 " and must be a multiple of %u",
                           o->size_bytes, QIMG_SECTOR_BYTES);
    geometry = qcow2_header_geometry(&h);
    n_l1_entries = qcow2_geometry_l1_entries_for(&geometry, o->size_bytes);
    if (n_l1_entries > QCOW2_MAX_L1_BYTES / 8) /* 2^61 bytes with the largest clusters */
        return qimg_misuse(error,
                           "size: is %" PRIu64 ", and with clusters of %" PRIu64
                           " bytes an image maps at most %" PRIu64
                           " bytes (use larger clusters)",
                           o->size_bytes, geometry.cluster_bytes,
                           QCOW2_MAX_L1_BYTES / 8 << geometry.l1_shift);
    h.n_l1_entries = (uint32_t)n_l1_entries;
    *out = h;
    return true;
}

static uint64_t
l1_offset_of(const Qcow2Header *h, const Layout *l)
{
    return (1 + l->n_table_clusters + l->n_blocks) << h->cluster_bits;
}

static uint64_t
luks_offset_of(const Qcow2Header *h, const Layout *l)
{
    return l1_offset_of(h, l) + (l->n_l1_clusters << h->cluster_bits);
}

static uint64_t
l2_offset_of(const Qcow2Header *h, const Layout *l)
{
    return luks_offset_of(h, l) + (l->n_luks_clusters << h->cluster_bits);
}

static uint64_t
data_offset_of(const Qcow2Header *h, const Layout *l)
{
    return l2_offset_of(h, l) + (l->n_l2_tables << h->cluster_bits);
}

/* Blocks count all clusters, including themselves and their table: their number is the
 * smallest that suffices. Stores the places in @h. */
static bool
lay_out(const QimgCreateOptions *o, Qcow2Header *h, Layout *out, GError **error)
{
    uint64_t cluster_bytes = UINT64_C(1) << h->cluster_bits;
    uint64_t n_per_block = qcow2_refcounts_per_block(h->cluster_bits, h->refcount_order);
    Layout l = {
        .n_table_clusters = 1,
        .n_blocks = 1,
        .n_l1_clusters = qimg_div_round_up(UINT64_C(8) * h->n_l1_entries, cluster_bytes),
    };

    if (o->luks)
        l.n_luks_clusters = qimg_div_round_up(o->luks->payload_offset, cluster_bytes);
    if (o->preallocation != QIMG_PREALLOCATION_OFF) {
        l.n_l2_tables = h->n_l1_entries;
        l.n_mapped = qimg_div_round_up(h->size_bytes, cluster_bytes);
        l.n_data_clusters = o->data_file_name ? 0 : l.n_mapped;
    }
    /* No sum overflows: a disk has less than 2^62 bytes here. */
    for (;;) {
        uint64_t n_blocks;

        l.n_clusters = 1 + l.n_table_clusters + l.n_blocks + l.n_l1_clusters +
                       l.n_luks_clusters + l.n_l2_tables + l.n_data_clusters;
        n_blocks = qimg_div_round_up(l.n_clusters, n_per_block);
        if (n_blocks == l.n_blocks)
            break;
        l.n_blocks = n_blocks;
        l.n_table_clusters = qimg_div_round_up(8 * n_blocks, cluster_bytes);
    }
    if (l.n_clusters > QCOW2_MAX_HOST_OFFSET >> h->cluster_bits ||
        l.n_blocks > QCOW2_MAX_REFCOUNT_TABLE_BYTES / 8)
        return qimg_misuse(
            error,
            "size: is %" PRIu64 ", more than an image with these cluster_size "
            "and refcount_bits has room for when all is allocated (use larger "
            "clusters, or preallocation=off)",
            o->size_bytes);
    h->refcount_table_offset = cluster_bytes;
    h->n_refcount_table_clusters = (uint32_t)l.n_table_clusters;
    /* An empty disk has no L1 table, and no place for one. */
    if (l.n_l1_clusters > 0)
        h->l1_table_offset = l1_offset_of(h, &l);
    *out = l;
    return true;
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

static bool
encode_luks_extension(const QimgCreateOptions *o, const Qcow2Header *h, const Layout *l,
                      GByteArray *cluster, size_t *position)
{
    qimg_be64 fields[2];
    Qcow2Extension e = {.type = QCOW2_EXT_ENCRYPTION,
                        .data = (const uint8_t *)fields,
                        .data_bytes = sizeof fields};

    if (!o->luks)
        return true;
    fields[0] = qimg_be64_set(luks_offset_of(h, l));
    fields[1] = qimg_be64_set(o->luks->payload_offset);
    return qcow2_extension_encode(&e, cluster->data, cluster->len, position);
}

/* The first cluster: header, extensions, backing file name. */
static GByteArray *
encode_header_cluster(const QimgCreateOptions *o, Qcow2Header *h, const Layout *l,
                      GError **error)
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
    fits = encode_text_extension(QCOW2_EXT_BACKING_FORMAT, o->backing_format, cluster,
                                 &position) &&
           encode_text_extension(QCOW2_EXT_DATA_FILE, o->data_file_name, cluster,
                                 &position) &&
           encode_luks_extension(o, h, l, cluster, &position);
    /* For messages only: left out if it would not fit. */
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
    qimg_misuse(
        error,
        "backing_file, data_file: the names do not fit in the header's cluster of "
        "%u bytes (use larger clusters or shorter names)",
        cluster->len);
    return NULL;
}

/* An array of addresses in steps of a cluster. */
typedef struct {
    uint64_t first; /* with the common flags */
    uint64_t step;
    uint64_t n_entries;
    uint32_t entry_words; /* 2: each is followed by a word of zeros */
} Entries;

static QimgErrno
write_entries(QimgStorage *file, QimgIoPurpose purpose, uint64_t offset,
              const Entries *entries, const QimgTask *task)
{
    uint64_t entry_bytes = entries->entry_words * sizeof(qimg_be64);
    uint64_t n_per_part = PART_BYTES / entry_bytes;
    g_autofree qimg_be64 *part = g_malloc0(PART_BYTES);
    QimgErrno err = 0;

    for (uint64_t done = 0, n; !err && done < entries->n_entries; done += n) {
        err = qimg_task_step(task, done, entries->n_entries);
        if (err)
            break;
        n = qimg_min_u64(entries->n_entries - done, n_per_part);
        for (uint64_t i = 0; i < n; i++)
            part[i * entries->entry_words] =
                qimg_be64_set(entries->first + (done + i) * entries->step);
        err = qimg_storage_write(file, purpose, qimg_host(offset + done * entry_bytes),
                                 part, n * entry_bytes);
    }
    return err;
}

/* Writes the refcount table and the refcounts in the blocks: each cluster of the file
 * once. The file is still all zeros. */
static QimgErrno
write_refcounts(QimgStorage *file, const Qcow2Header *h, const Layout *l,
                const QimgTask *task)
{
    Entries table = {
        .first = (1 + l->n_table_clusters) << h->cluster_bits,
        .step = UINT64_C(1) << h->cluster_bits,
        .n_entries = l->n_blocks,
        .entry_words = 1,
    };
    uint64_t n_per_part = PART_BYTES * 8 >> h->refcount_order;
    g_autofree uint8_t *part = g_malloc(PART_BYTES);
    QimgErrno err = write_entries(file, QIMG_IO_REFCOUNT_TABLE, h->refcount_table_offset,
                                  &table, task);

    for (uint64_t done = 0, n; !err && done < l->n_clusters; done += n) {
        err = qimg_task_step(task, done, l->n_clusters);
        if (err)
            break;
        n = qimg_min_u64(l->n_clusters - done, n_per_part);
        if (done == 0 || n < n_per_part) { /* else the same as the part before */
            memset(part, 0, PART_BYTES);
            for (uint64_t i = 0; i < n; i++)
                qcow2_refcount_encode(part, h->refcount_order, i, 1);
        }
        err = qimg_storage_write(
            file, QIMG_IO_REFCOUNT,
            qimg_host(table.first + (done << h->refcount_order >> 3)), part,
            qimg_div_round_up(n << h->refcount_order, 8 /* bits */));
    }
    return err;
}

/* Writes the L1 table and L2 tables of a preallocated disk. With extended entries the
 * bitmaps stay empty: a cluster has a place, but no content there. */
static QimgErrno
write_mapping(QimgStorage *file, const Qcow2Header *h, const Layout *l,
              const QimgTask *task)
{
    bool has_data_file = (h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE) != 0;
    Entries l1 = {
        .first = l2_offset_of(h, l) | QCOW2_ENTRY_COPIED,
        .step = UINT64_C(1) << h->cluster_bits,
        .n_entries = l->n_l2_tables,
        .entry_words = 1,
    };
    Entries l2 = {
        .first = (has_data_file ? 0 : data_offset_of(h, l)) | QCOW2_ENTRY_COPIED,
        .step = UINT64_C(1) << h->cluster_bits,
        .n_entries = l->n_mapped,
        .entry_words = qcow2_header_geometry(h).l2_entry_words,
    };
    QimgErrno err = write_entries(file, QIMG_IO_L2, l2_offset_of(h, l), &l2, task);

    return err ? err : write_entries(file, QIMG_IO_L1, l1_offset_of(h, l), &l1, task);
}

/* Writes the LUKS header and the key material of its first slot; that of the other slots,
 * and the rest of the clusters, stay zeros. */
static QimgErrno
write_luks(QimgStorage *file, const QimgCreateOptions *o, uint64_t offset)
{
    uint8_t bytes[LUKS_HEADER_BYTES];
    QimgErrno err;

    if (!o->luks)
        return 0;
    luks_header_encode(o->luks, bytes);
    err = qimg_storage_write(file, QIMG_IO_HEADER,
                             qimg_host(offset + o->luks->slots[0].material_offset),
                             o->luks_material->bytes, o->luks_material->n_bytes);
    return err ? err
               : qimg_storage_write(file, QIMG_IO_HEADER, qimg_host(offset), bytes,
                                    sizeof bytes);
}

/* Makes the file @n_bytes of zeros, the header first: from then on it is no image of any
 * kind. */
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
    /* A device has a fixed length, and keeps its content. */
    if (!err && old_bytes > 0)
        err = qimg_storage_zero(file, QIMG_IO_HEADER, qimg_host(0), n_bytes);
    return err;
}

/* Preallocates the data clusters beyond their places: first of all, so that a lack of
 * space shows early. */
static QimgErrno
preallocate_data(QimgStorage *file, const QimgCreateOptions *o, const Qcow2Header *h,
                 const Layout *l)
{
    if (o->preallocation < QIMG_PREALLOCATION_FALLOC)
        return 0;
    return qimg_storage_preallocate(file, qimg_host(data_offset_of(h, l)),
                                    l->n_data_clusters << h->cluster_bits,
                                    o->preallocation == QIMG_PREALLOCATION_FULL, o->task);
}

/* All checks that need no file, including the header's cluster. NULL with @error set if
 * the options are invalid. */
static GByteArray *
plan_image(const QimgCreateOptions *options, Qcow2Header *header_out, Layout *layout_out,
           GError **error)
{
    if (!qcow2_make_header(options, header_out, error) ||
        !lay_out(options, header_out, layout_out, error))
        return NULL;
    return encode_header_cluster(options, header_out, layout_out, error);
}

bool
qcow2_check_create(const QimgCreateOptions *options, GError **error)
{
    Qcow2Header header;
    Layout layout;
    g_autoptr(GByteArray) cluster = plan_image(options, &header, &layout, error);

    return cluster != NULL;
}

bool
qcow2_create(QimgStorage *file, const QimgCreateOptions *options, GError **error)
{
    Qcow2Header header;
    Layout layout = {0};
    g_autoptr(GByteArray) cluster = plan_image(options, &header, &layout, error);
    QimgErrno err;

    if (!cluster)
        return false;
    err = empty_file(file, layout.n_clusters << header.cluster_bits);
    if (!err)
        err = preallocate_data(file, options, &header, &layout);
    if (!err)
        err = write_refcounts(file, &header, &layout, options->task);
    if (!err)
        err = write_mapping(file, &header, &layout, options->task);
    if (!err)
        err = write_luks(file, options, luks_offset_of(&header, &layout));
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
