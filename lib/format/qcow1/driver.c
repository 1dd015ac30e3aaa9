/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening a layer of qcow version 1: checks its header and reads its backing file's name,
 * but no tables. */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "format/drivers.h"
#include "format/encryption.h"
#include "format/qcow1/map.h"

static bool
qcow1_refuse(GError **error, QimgDecode broken)
{
    return qimg_refuse_header(error, broken, QIMG_RULE_QCOW1_MAGIC,
                              "the image is damaged or no qcow version 1 image; "
                              "try -o format=raw to see its bytes");
}

static bool
qcow1_load_header(Qcow1 *q, GError **error)
{
    uint8_t bytes[QCOW1_HEADER_BYTES];
    size_t n_bytes;
    QimgDecode decoded;

    if (!qimg_read_header(q->base.file, bytes, sizeof bytes, &n_bytes, error))
        return false;
    decoded = qcow1_header_decode(bytes, n_bytes, &q->header);
    return !decoded.rule || qcow1_refuse(error, decoded);
}

static bool
qcow1_load_backing_name(Qcow1 *q, uint64_t file_bytes, GError **error)
{
    uint64_t offset = q->header.backing_name_offset;
    uint32_t length = q->header.backing_name_bytes;
    g_autofree char *name = NULL;
    QimgDecode broken;

    if (offset == 0 || length == 0)
        return true;
    if (length > QCOW1_MAX_BACKING_NAME || !qimg_range_fits(offset, length, file_bytes))
        return qcow1_refuse(error,
                            qimg_decode_broken(QIMG_RULE_QCOW1_BACKING_NAME, length));
    name = qimg_read_backing_name(q->base.file, offset, length, &broken, error);
    if (!name)
        return false;
    if (broken.rule)
        return qcow1_refuse(error, broken);
    q->base.backing_name = g_steal_pointer(&name);
    return true;
}

/* Opens the encryption; refuses writing. */
static bool
check_use(Qcow1 *q, const QimgFormatEnv *env, GError **error)
{
    if (q->header.crypt_method != QCOW1_CRYPT_NONE &&
        !qimg_format_open_aes(&q->base, env, error))
        return false;
    if (!env->is_writable)
        return true;
    qimg_set_error(error, QIMG_ERROR_READ_ONLY,
                   "is a qcow version 1 image, which can be read only (write to an "
                   "overlay with -o cow, or convert it with qemu-img convert -O qcow2)");
    return false;
}

static void
clip_l1_to_file(Qcow1 *q)
{
    QimgView *view = &q->base.active;
    uint64_t end_bytes = atomic_load(&q->base.file_end_bytes);
    uint64_t start = view->l1_table_offset.v;
    uint64_t n_there = start < end_bytes ? (end_bytes - start) / 8 : 0;

    view->n_l1_entries_in_file = (uint32_t)qimg_min_u64(view->n_l1_entries, n_there);
    if (view->n_l1_entries_in_file < view->n_l1_entries)
        qimg_format_warn(&q->base,
                         "l1_table_offset: the L1 table is cut by the end of the file; "
                         "reads of the range that it should map fail");
}

static bool
qcow1_fill(Qcow1 *q, const QimgFormatEnv *env, GError **error)
{
    const Qcow1Header *h = &q->header;
    QimgFormat *base = &q->base;
    uint64_t file_bytes = 0;
    QimgErrno err = qimg_storage_get_size(base->file, &file_bytes);

    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read its size");
        return false;
    }
    if (!qimg_format_look_at_end(base, error) || !qcow1_load_header(q, error) ||
        !qcow1_load_backing_name(q, file_bytes, error) || !check_use(q, env, error))
        return false;
    base->active = (QimgView){
        .size_bytes = h->size_bytes,
        .l1_table_offset = qimg_host(h->l1_table_offset),
        .n_l1_entries = h->n_l1_entries,
    };
    clip_l1_to_file(q);
    base->cluster_bytes = UINT64_C(1) << h->cluster_bits;
    base->alloc_unit_bytes = base->cluster_bytes;
    base->may_compress = true;
    base->facts[base->n_facts++] = (QimgFact){.name = "l2-entries",
                                              .kind = QIMG_FACT_NUMBER,
                                              .number = UINT64_C(1) << h->l2_bits};
    if (h->mtime_s != 0)
        base->facts[base->n_facts++] = (QimgFact){
            .name = "backing-mtime", .kind = QIMG_FACT_NUMBER, .number = h->mtime_s};
    return true;
}

static QimgFormat *
qcow1_open(QimgStorage *file, const QimgFormatEnv *env, GError **error)
{
    Qcow1 *q = g_new0(Qcow1, 1);

    qimg_format_init(&q->base, &qimg_driver_qcow1, file, env);
    if (qcow1_fill(q, env, error))
        return &q->base;
    q->base.file = NULL; /* stays the caller's */
    qimg_format_close(&q->base);
    return NULL;
}

static QimgErrno
qcow1_read_compressed(QimgFormat *format, QimgHostOffset host_offset,
                      uint32_t stream_bytes, uint8_t *cluster_out)
{
    return qimg_format_read_stream(format, QIMG_CODEC_DEFLATE, host_offset, stream_bytes,
                                   cluster_out);
}

static void
qcow1_close(QimgFormat *format)
{
    g_free(format);
}

const QimgDriver qimg_driver_qcow1 = {
    .name = "qcow",
    .probe = qcow1_header_probe,
    .open = qcow1_open,
    .map = qcow1_map,
    .read_compressed = qcow1_read_compressed,
    .close = qcow1_close,
};
