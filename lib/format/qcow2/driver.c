/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening a qcow2 layer: checks the header's fields and extensions and decides on
 * features; reads no tables yet. Spec: qcow2 sections 2 and 12. */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "format/drivers.h"
#include "format/encryption.h"
#include "format/qcow2/activate.h"
#include "format/qcow2/amend.h"
#include "format/qcow2/bitmap/bitmap-extents.h"
#include "format/qcow2/bitmap/bitmap-list.h"
#include "format/qcow2/bitmap/change.h"
#include "format/qcow2/bitmap/session.h"
#include "format/qcow2/bitmap/store.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/check/repair.h"
#include "format/qcow2/create.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/layer/qcow2.h"
#include "format/qcow2/snapshot/snapshot-change.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "format/qcow2/tables/compressed.h"
#include "format/qcow2/tables/map.h"
#include "format/qcow2/truncated.h"
#include "format/qcow2/write/discard.h"
#include "format/qcow2/write/flush.h"
#include "format/qcow2/write/resize.h"
#include "format/qcow2/write/write.h"

/* Enough for the fixed part of the header, for any cluster size. */
#define FIRST_READ_BYTES 4096u

static bool
qcow2_refuse(GError **error, QimgDecode broken)
{
    return qimg_refuse_header(error, broken, QIMG_RULE_MAGIC,
                              "the image is damaged or no qcow2 image; "
                              "try qimg check, or -o format=raw to see its bytes");
}

/* Whether the end of the header extensions lies in the first @n_bytes, so that the rest
 * of the cluster need not be read. */
static bool
extensions_end_within(const uint8_t *bytes, size_t n_bytes, const Qcow2Header *header)
{
    uint64_t end = qcow2_header_extensions_end(header);
    size_t position = header->header_bytes;
    Qcow2Extension e;

    if (end <= n_bytes)
        return true;
    do {
        if (n_bytes - position < 2 * sizeof(uint32_t) ||
            qcow2_extension_decode(bytes, n_bytes, &position, &e).rule ||
            position > n_bytes)
            return false;
    } while (e.type != QCOW2_EXT_END);
    return true;
}

/* Reads the header area: the first cluster, or the part of it that the file has. */
static uint8_t *
load_header_area(QimgStorage *file, bool for_check, size_t *n_bytes_out,
                 Qcow2Header *header_out, GError **error)
{
    QimgDecode (*decode)(const uint8_t *, size_t, Qcow2Header *) =
        for_check ? qcow2_header_decode_for_check : qcow2_header_decode;
    g_autofree uint8_t *bytes = g_malloc0(FIRST_READ_BYTES);
    size_t n_bytes;
    QimgDecode decoded;
    uint64_t end;

    if (!qimg_read_header(file, bytes, FIRST_READ_BYTES, &n_bytes, error))
        return NULL;
    decoded = decode(bytes, n_bytes, header_out);
    /* A header longer than the first read is checked after a read of its full length. */
    if (decoded.rule == QIMG_RULE_SHORT_HEADER && n_bytes == FIRST_READ_BYTES)
        end = UINT64_C(1) << QCOW2_MAX_CLUSTER_BITS;
    else if (decoded.rule) {
        qcow2_refuse(error, decoded);
        return NULL;
    } else {
        uint64_t name_end = header_out->backing_name_offset +
                            qimg_min_u64(header_out->backing_name_bytes, 65536);

        end =
            qimg_min_u64(UINT64_C(1) << header_out->cluster_bits,
                         qimg_max_u64(qcow2_header_extensions_end(header_out), name_end));
        if (name_end <= n_bytes && extensions_end_within(bytes, n_bytes, header_out)) {
            *n_bytes_out = qimg_min_u64(n_bytes, end);
            return g_steal_pointer(&bytes);
        }
    }
    bytes = g_realloc(bytes, qimg_max_u64(end, FIRST_READ_BYTES));
    if (!qimg_read_header(file, bytes, end, &n_bytes, error))
        return NULL;
    decoded = decode(bytes, n_bytes, header_out);
    if (decoded.rule) {
        qcow2_refuse(error, decoded);
        return NULL;
    }
    *n_bytes_out = n_bytes;
    return g_steal_pointer(&bytes);
}

/* Refuses unknown incompatible features, by their names. */
static bool
qcow2_check_features(const Qcow2Header *header, const Qcow2Extension *names,
                     GError **error)
{
    uint64_t unknown = header->incompatible_features & ~(uint64_t)QCOW2_INCOMPAT_KNOWN;
    g_autoptr(GString) list = g_string_new(NULL);

    if (unknown == 0)
        return true;
    if (unknown & QCOW2_INCOMPAT_ZONED) {
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "incompatible_features: bit 5 (zoned format) is set, and zoned "
                       "images cannot be read by this version (use the program that "
                       "made the image)");
        return false;
    }
    for (uint8_t bit = 0; bit < 64; bit++) {
        char name[QCOW2_FEATURE_NAME_BYTES + 1];
        g_autofree char *shown = NULL;

        if (!(unknown >> bit & 1))
            continue;
        if (qcow2_feature_name_find(names, 0, bit, name))
            shown = g_strescape(name, NULL);
        g_string_append_printf(list, "%sbit %u (%s)", list->len ? ", " : "", bit,
                               shown ? shown : "no name given");
    }
    qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                   "incompatible_features: unknown %s; the data cannot be read correctly "
                   "without support for it (use a newer version, or the program "
                   "that made the image)",
                   list->str);
    return false;
}

/* Notes the place of the LUKS header; another length of the extension: none. Spec:
 * encryption section 3. */
static void
take_luks_area(Qcow2 *q, const Qcow2Extension *extension)
{
    qimg_be64 fields[2] = {0};

    if (extension->data_bytes == sizeof fields)
        memcpy(fields, extension->data, sizeof fields);
    q->has_luks_extension = true;
    q->luks_offset = qimg_be64_get(fields[0]);
    q->luks_bytes = qimg_be64_get(fields[1]);
}

/* Returns @data as a text if it is at most @max_bytes without NUL. NULs after the string
 * are padding. */
static char *
extension_text(const Qcow2Extension *extension, size_t max_bytes)
{
    const char *text = (const char *)extension->data;
    size_t n_bytes = strnlen(text, extension->data_bytes);

    if (n_bytes == 0 || n_bytes > max_bytes)
        return NULL;
    for (size_t i = n_bytes; i < extension->data_bytes; i++)
        if (text[i] != '\0')
            return NULL;
    return g_strndup(text, n_bytes);
}

/* Stores the content of the header extensions. */
static bool
load_extensions(Qcow2 *q, const uint8_t *bytes, size_t n_bytes, GError **error)
{
    size_t end = qimg_min_u64(qcow2_header_extensions_end(&q->header), n_bytes);
    size_t position = q->header.header_bytes;
    Qcow2Extension names = {0};
    Qcow2Extension e;

    do {
        QimgDecode decoded = qcow2_extension_decode(bytes, end, &position, &e);

        if (decoded.rule) {
            /* An unknown feature may explain it, and its message helps the user more. */
            return qcow2_check_features(&q->header, &names, error) &&
                   qcow2_refuse(error, decoded);
        }
        switch (e.type) {
        case QCOW2_EXT_BACKING_FORMAT:
            if (q->base.backing_format)
                return qcow2_refuse(
                    error, qimg_decode_broken(QIMG_RULE_EXTENSION_TWICE, e.type));
            q->base.backing_format = extension_text(&e, QCOW2_MAX_BACKING_FORMAT);
            if (!q->base.backing_format)
                return qcow2_refuse(
                    error, qimg_decode_broken(QIMG_RULE_BACKING_FORMAT, e.data_bytes));
            break;
        case QCOW2_EXT_DATA_FILE:
            if (q->base.data_file_name)
                return qcow2_refuse(
                    error, qimg_decode_broken(QIMG_RULE_EXTENSION_TWICE, e.type));
            q->base.data_file_name = extension_text(&e, e.data_bytes);
            if (!q->base.data_file_name)
                return qcow2_refuse(
                    error, qimg_decode_broken(QIMG_RULE_DATA_FILE_NAME, e.data_bytes));
            break;
        case QCOW2_EXT_FEATURE_NAMES:
            if (names.data)
                return qcow2_refuse(
                    error, qimg_decode_broken(QIMG_RULE_EXTENSION_TWICE, e.type));
            names = e;
            break;
        case QCOW2_EXT_ENCRYPTION:
            if (q->has_luks_extension)
                return qcow2_refuse(
                    error, qimg_decode_broken(QIMG_RULE_EXTENSION_TWICE, e.type));
            take_luks_area(q, &e);
            break;
        case QCOW2_EXT_BITMAPS: /* a damaged one does not prevent reads of the disk */
            q->has_damaged_bitmaps =
                qcow2_bitmaps_extension_decode(e.data, e.data_bytes,
                                               UINT64_C(1) << q->header.cluster_bits,
                                               &q->bitmaps)
                    .rule != 0;
            q->bitmaps_extension_at = (uint64_t)(e.data - bytes);
            break;
        default: /* unknown ones, and those that reads do not need */
            break;
        }
    } while (e.type != QCOW2_EXT_END);
    return qcow2_check_features(&q->header, &names, error);
}

static bool
qcow2_load_backing_name(Qcow2 *q, const uint8_t *bytes, size_t n_bytes, GError **error)
{
    uint64_t offset = q->header.backing_name_offset;
    uint32_t length = q->header.backing_name_bytes;

    if (offset == 0 || length == 0)
        return true;
    if (length > QCOW2_MAX_BACKING_NAME || !qimg_range_fits(offset, length, n_bytes))
        return qcow2_refuse(error,
                            qimg_decode_broken(QIMG_RULE_BACKING_NAME_SIZE, length));
    if (memchr(bytes + offset, 0, length))
        return qcow2_refuse(error,
                            qimg_decode_broken(QIMG_RULE_BACKING_NAME_NUL, length));
    q->base.backing_name = g_strndup((const char *)bytes + offset, length);
    return true;
}

/* Checks of several fields: data file, warnings. */
static bool
decide_features(Qcow2 *q, GError **error)
{
    const Qcow2Header *h = &q->header;
    QimgFormat *base = &q->base;

    base->needs_data_file = q->geometry.has_data_file;
    base->has_raw_data_file =
        base->needs_data_file &&
        (h->autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW) != 0;
    if (!base->needs_data_file) {
        if (h->autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW)
            return qcow2_refuse(error, qimg_decode_broken(QIMG_RULE_RAW_WITHOUT_DATA_FILE,
                                                          h->autoclear_features));
        g_clear_pointer(&base->data_file_name, g_free); /* no meaning without the bit */
    } else if (h->n_snapshots > 0) {
        return qcow2_refuse(
            error, qimg_decode_broken(QIMG_RULE_DATA_FILE_SNAPSHOTS, h->n_snapshots));
    }
    base->is_dirty = (h->incompatible_features & QCOW2_INCOMPAT_DIRTY) != 0;
    base->is_corrupt = (h->incompatible_features & QCOW2_INCOMPAT_CORRUPT) != 0;
    if (base->is_dirty)
        qimg_format_warn(base, "was not closed properly (the dirty bit is set); reading "
                               "is not affected (qimg check -r all repairs it)");
    if (base->is_corrupt)
        qimg_format_warn(base, "is marked corrupt: parts may be damaged (qimg check "
                               "tells which)");
    return true;
}

/* The header extension is there exactly with the method LUKS, and names whole clusters.
 * Spec: encryption section 3. */
static bool
open_encryption(Qcow2 *q, const QimgFormatEnv *env, GError **error)
{
    uint32_t method = q->header.crypt_method;
    bool is_luks = method == QCOW2_CRYPT_LUKS;
    uint64_t offset = q->luks_offset;
    bool is_placed = offset != 0 && offset % q->geometry.cluster_bytes == 0;

    if (is_luks != q->has_luks_extension && !env->inspect)
        return qcow2_refuse(error,
                            qimg_decode_broken(QIMG_RULE_ENCRYPTION_EXTENSION, method));
    if (is_luks)
        return qimg_format_open_luks(&q->base, env, offset, is_placed ? q->luks_bytes : 0,
                                     error);
    return method == QCOW2_CRYPT_NONE || qimg_format_open_aes(&q->base, env, error);
}

static void
add_fact(QimgFormat *base, QimgFact fact)
{
    g_assert(base->n_facts < QIMG_MAX_FACTS);
    base->facts[base->n_facts++] = fact;
}

static void
add_facts(Qcow2 *q)
{
    const Qcow2Header *h = &q->header;
    QimgFormat *base = &q->base;
    const char *compression =
        h->compression_type == QCOW2_COMPRESSION_ZSTD ? "zstd" : "zlib";

#define BOOL(key, value)                                                                 \
    add_fact(base, (QimgFact){.name = key, .kind = QIMG_FACT_BOOL, .flag = (value)})
#define NUMBER(key, value)                                                               \
    add_fact(base, (QimgFact){.name = key, .kind = QIMG_FACT_NUMBER, .number = (value)})
#define TEXT(key, value)                                                                 \
    add_fact(base, (QimgFact){.name = key, .kind = QIMG_FACT_TEXT, .text = (value)})
    TEXT("compat", h->version == 2 ? "0.10" : "1.1");
    TEXT("compression-type", compression);
    NUMBER("refcount-bits", UINT64_C(1) << h->refcount_order);
    if (h->version >= 3) {
        BOOL("lazy-refcounts",
             (h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0);
        BOOL("corrupt", base->is_corrupt);
        BOOL("extended-l2", q->geometry.extended_l2);
    }
    if (base->needs_data_file) {
        if (base->data_file_name)
            TEXT("data-file", base->data_file_name);
        BOOL("data-file-raw", base->has_raw_data_file);
    }
    NUMBER("incompatible-features", h->incompatible_features);
    NUMBER("compatible-features", h->compatible_features);
    NUMBER("autoclear-features", h->autoclear_features);
#undef BOOL
#undef NUMBER
#undef TEXT
}

static bool
qcow2_fill(Qcow2 *q, const uint8_t *bytes, size_t n_bytes, const QimgFormatEnv *env,
           GError **error)
{
    const Qcow2Header *h = &q->header;

    /* Features first: an unknown one may have changed the meaning of all other fields. */
    if (!load_extensions(q, bytes, n_bytes, error))
        return false;
    q->geometry = qcow2_header_geometry(h);
    q->slice_words =
        (unsigned)qimg_min_u64(TABLE_SLICE_BYTES, q->geometry.cluster_bytes) / 8;
    q->codec = h->compression_type == QCOW2_COMPRESSION_ZSTD ? QIMG_CODEC_ZSTD
                                                             : QIMG_CODEC_DEFLATE;
    if (!qimg_format_look_at_end(&q->base, error) ||
        !qcow2_load_backing_name(q, bytes, n_bytes, error) ||
        !decide_features(q, error) || !open_encryption(q, env, error))
        return false;
    q->base.active = (QimgView){
        .size_bytes = h->size_bytes,
        .l1_table_offset = qimg_host(h->l1_table_offset),
        .n_l1_entries = h->n_l1_entries,
    };
    qcow2_view_clip_to_file(q, &q->base.active);
    if (q->base.active.n_l1_entries_in_file <
        qcow2_geometry_l1_entries_for(&q->geometry, h->size_bytes))
        qimg_format_warn(&q->base,
                         "l1_table_offset: the L1 table is cut by the end of the "
                         "file; reads of the range that it should map fail");
    q->base.cluster_bytes = q->geometry.cluster_bytes;
    q->base.alloc_unit_bytes = UINT64_C(1) << q->geometry.subcluster_bits;
    q->base.may_compress = !q->geometry.has_data_file;
    if (env->for_check)
        qcow2_open_for_check(q);
    if (env->has_snapshots && !qcow2_header_check_snapshot_table(h).rule)
        qcow2_load_snapshots(q);
    if (!env->for_check)
        qcow2_warn_if_truncated(q);
    add_facts(q);
    return !q->base.is_writable || qcow2_open_for_writing(q, env, error);
}

static QimgFormat *
qcow2_open(QimgStorage *file, const QimgFormatEnv *env, GError **error)
{
    Qcow2 *q = g_new0(Qcow2, 1);
    g_autofree uint8_t *bytes = NULL;
    size_t n_bytes = 0;

    qimg_format_init(&q->base, &qimg_driver_qcow2, file, env);
    bytes = load_header_area(file, env->for_check, &n_bytes, qcow2_header_to_change(q),
                             error);
    if (!bytes || !qcow2_fill(q, bytes, n_bytes, env, error)) {
        q->base.file = NULL; /* stays the caller's */
        qimg_format_close(&q->base);
        return NULL;
    }
    return &q->base;
}

static void
qcow2_close(QimgFormat *format)
{
    qcow2_close_for_writing((Qcow2 *)format);
    g_free(format);
}

const QimgDriver qimg_driver_qcow2 = {
    .name = "qcow2",
    .records_backing_format = true,
    .probe = qcow2_header_probe,
    .open = qcow2_open,
    .map = qcow2_map,
    .will_map = qcow2_will_map,
    .read_compressed = qcow2_read_compressed,
    .check_snapshot = qcow2_check_snapshot,
    .list_bitmaps = qcow2_list_bitmaps,
    .load_bitmaps = qcow2_load_bitmaps,
    .map_bitmap = qcow2_map_bitmap,
    .change_bitmaps = qcow2_change_bitmaps,
    .activate = qcow2_activate,
    .before_change = qcow2_before_change,
    .make_room = qcow2_spill_bitmaps,
    .plan_write = qcow2_plan_write,
    .publish = qcow2_publish,
    .abandon = qcow2_abandon,
    .zero = qcow2_zero,
    .flush = qcow2_flush,
    .wants_flush = qcow2_wants_flush,
    .extend_tables = qcow2_extend_tables,
    .resize = qcow2_resize,
    .grow = qcow2_grow,
    .make_empty = qcow2_make_empty,
    .create_snapshot = qcow2_create_snapshot,
    .delete_snapshot = qcow2_delete_snapshot,
    .rename_snapshot = qcow2_rename_snapshot,
    .revert_to_snapshot = qcow2_revert_to_snapshot,
    .check = qcow2_check,
    .repair = qcow2_repair,
    .change_header = qcow2_change_header,
    .end_writing = qcow2_end_writing,
    .check_create = qcow2_check_create,
    .create = qcow2_create,
    .close = qcow2_close,
};
