/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening a QED layer: checks the header and decides on features; reads no tables yet.
 * Spec: qed section 3. */
#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "format/drivers.h"
#include "format/qed/activate.h"
#include "format/qed/check.h"
#include "format/qed/create.h"
#include "format/qed/map.h"
#include "format/qed/place.h"
#include "format/qed/resize.h"
#include "format/qed/write.h"
#include "format/qed/zero.h"
#include "format/truncated.h"

static bool
qed_refuse_header(GError **error, QimgDecode broken)
{
    return qimg_refuse_header(error, broken, QIMG_RULE_QED_MAGIC,
                              "the image is damaged or no QED image; "
                              "see its bytes with -o format=raw");
}

static bool
qed_load_header(Qed *qed, GError **error)
{
    uint8_t bytes[QED_HEADER_BYTES] = {0};
    size_t n_bytes;
    QimgDecode decoded;

    if (!qimg_read_header(qed->base.file, bytes, sizeof bytes, &n_bytes, error))
        return false;
    decoded = qed_header_decode(bytes, n_bytes, &qed->header);
    return !decoded.rule || qed_refuse_header(error, decoded);
}

static bool
qed_check_features(const QedHeader *header, GError **error)
{
    uint64_t unknown = header->features & ~QED_FEATURES_KNOWN;
    g_autoptr(GString) list = g_string_new(NULL);

    if (unknown == 0)
        return true;
    for (unsigned bit = 0; bit < 64; bit++)
        if (unknown >> bit & 1)
            g_string_append_printf(list, "%sbit %u", list->len ? ", " : "", bit);
    qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                   "features: unknown %s; the data cannot be read correctly without "
                   "support for it (use a newer version, or the program that "
                   "made the image)",
                   list->str);
    return false;
}

static bool
qed_load_backing_name(Qed *qed, GError **error)
{
    const QedHeader *h = &qed->header;
    g_autofree char *name = NULL;
    QimgDecode broken;

    if (h->backing_name_bytes == 0)
        return true;
    name = qimg_read_backing_name(qed->base.file, h->backing_name_offset,
                                  h->backing_name_bytes, &broken, error);
    if (!name)
        return false;
    if (broken.rule)
        return qed_refuse_header(error, broken);
    qed->base.backing_name = g_steal_pointer(&name);
    if (h->features & QED_FEATURE_BACKING_RAW)
        qed->base.backing_format = g_strdup("raw");
    else
        qed->base.lets_probe = true;
    return true;
}

/* A first look at the file's end: the place of the last L2 table, and the clusters to
 * which a part of it refers. */
static void
qed_warn_if_truncated(Qed *qed)
{
    uint64_t cluster_bytes = qed->base.cluster_bytes, table = 0, end_bytes;
    uint64_t n_words = qimg_min_u64(UINT64_C(1) << qed->entry_bits, QIMG_MIB / 8);
    g_autofree uint64_t *words = NULL;

    if (qimg_format_warn_if_truncated(
            &qed->base, qimg_find_l2_end(&qed->base, &qed->base.active, UINT64_MAX,
                                         qed_table_bytes(&qed->header), &table)) ||
        !qed_is_place_for_table(qed, table))
        return;
    words = g_new(uint64_t, n_words);
    if (qimg_format_read_words(&qed->base, QIMG_IO_L2, table, words, n_words) != 0)
        return;
    for (uint64_t i = 0; i < n_words; i++)
        if (qimg_is_aligned(words[i], cluster_bytes))
            table = qimg_max_u64(table, words[i]);
    if (qimg_add_u64(table, cluster_bytes, &end_bytes))
        qimg_format_warn_if_truncated(&qed->base, end_bytes);
}

static void
add_number(QimgFormat *base, const char *name, uint64_t number)
{
    base->facts[base->n_facts++] =
        (QimgFact){.name = name, .kind = QIMG_FACT_NUMBER, .number = number};
}

static bool
qed_fill(Qed *qed, const QimgFormatEnv *env, GError **error)
{
    const QedHeader *h = &qed->header;
    QimgFormat *base = &qed->base;
    uint64_t n_entries = qed_table_bytes(h) / sizeof(uint64_t);
    uint64_t n_in_file = 0;

    /* Features first: an unknown one may have changed the meaning of all other fields. */
    if (!qed_check_features(h, error) || !qed_load_backing_name(qed, error) ||
        !qimg_format_look_at_end(base, error))
        return false;
    qed->entry_bits = (unsigned)__builtin_ctzll(n_entries);
    qed->l1_shift = h->cluster_bits + qed->entry_bits;
    if (base->file_end_bytes > h->l1_table_offset)
        n_in_file = qimg_min_u64(n_entries, (base->file_end_bytes - h->l1_table_offset) /
                                                sizeof(uint64_t));
    base->cluster_bytes = base->alloc_unit_bytes = qed_cluster_bytes(h);
    base->active = (QimgView){
        .size_bytes = h->size_bytes,
        .l1_table_offset = qimg_host(h->l1_table_offset),
        .n_l1_entries = (uint32_t)n_entries,
        .n_l1_entries_in_file = (uint32_t)n_in_file,
    };
    if (n_in_file < n_entries)
        qimg_format_warn(base, "l1_table_offset: the L1 table is cut by the end of the "
                               "file; reads of the range that it should map fail");
    if (!env->for_check)
        qed_warn_if_truncated(qed);
    base->is_dirty = (h->features & QED_FEATURE_NEED_CHECK) != 0;
    if (base->is_dirty)
        qimg_format_warn(base, "was not closed properly (the need-check bit is set); "
                               "reading is not affected (qimg check -r all repairs it)");
    add_number(base, "table-size", h->table_clusters);
    add_number(base, "header-size", h->header_clusters);
    add_number(base, "features", h->features);
    add_number(base, "compatible-features", h->compat_features);
    add_number(base, "autoclear-features", h->autoclear_features);
    if (env->for_check || env->is_writable) {
        qimg_mutex_init(&qed->alloc_lock, QIMG_RANK_ALLOC);
        qed->has_lock = true;
    }
    return !env->is_writable || qed_open_for_writing(qed, error);
}

static QimgFormat *
qed_open(QimgStorage *file, const QimgFormatEnv *env, GError **error)
{
    Qed *qed = g_new0(Qed, 1);

    qimg_format_init(&qed->base, &qimg_driver_qed, file, env);
    if (!qed_load_header(qed, error) || !qed_fill(qed, env, error)) {
        qed->base.file = NULL; /* stays the caller's */
        qimg_format_close(&qed->base);
        return NULL;
    }
    return &qed->base;
}

static void
qed_close(QimgFormat *format)
{
    Qed *qed = (Qed *)format;

    if (qed->returned)
        g_array_unref(qed->returned);
    if (qed->has_lock)
        qimg_mutex_clear(&qed->alloc_lock);
    g_free(qed);
}

const QimgDriver qimg_driver_qed = {
    .name = "qed",
    .is_little_endian = true,
    .probe = qed_header_probe,
    .open = qed_open,
    .map = qed_map,
    .will_map = qed_will_map,
    .activate = qed_activate,
    .plan_write = qed_plan_write,
    .publish = qed_publish,
    .abandon = qed_abandon,
    .zero = qed_zero,
    .flush = qed_flush,
    .extend_tables = qed_extend_tables,
    .resize = qed_resize,
    .grow = qed_grow,
    .check = qed_check,
    .repair = qed_repair,
    .end_writing = qed_end_writing,
    .check_create = qed_check_create,
    .create = qed_create,
    .close = qed_close,
};
