/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* State that all open layers share. */
#include "format/format.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "base/scratch.h"

void
qimg_format_init(QimgFormat *format, const QimgDriver *driver, QimgStorage *file,
                 const QimgFormatEnv *env)
{
    format->driver = driver;
    format->file = file;
    format->tables = env->tables;
    format->layer_index = env->layer_index;
    format->gate = env->gate;
    format->is_writable = env->is_writable;
    format->zero_unit_bytes = 1;
    if (env->is_writable) {
        format->inflight = inflight_set_new();
        format->metadata = qimg_index_set_new();
        format->behind = behind_new(env->keeper, file);
    }
    format->snapshots = qimg_snapshots_new(NULL, 0);
    format->warnings = g_ptr_array_new_with_free_func(g_free);
}

bool
qimg_read_header(QimgStorage *file, void *bytes, size_t n_max, size_t *n_bytes_out,
                 GError **error)
{
    uint64_t size_bytes = 0;
    QimgErrno err = qimg_storage_get_size(file, &size_bytes);

    *n_bytes_out = qimg_min_u64(size_bytes, n_max);
    if (!err)
        err = qimg_storage_read(file, QIMG_IO_HEADER, qimg_host(0), bytes, *n_bytes_out);
    if (err)
        qimg_set_error_errno(error, -err, NULL, "cannot read the header");
    return !err;
}

char *
qimg_read_backing_name(QimgStorage *file, uint64_t host_offset, uint32_t length_bytes,
                       QimgDecode *broken_out, GError **error)
{
    g_autofree char *name = g_malloc0((gsize)length_bytes + 1);
    QimgErrno err = qimg_storage_read(file, QIMG_IO_HEADER, qimg_host(host_offset), name,
                                      length_bytes);

    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read the backing file's name");
        return NULL;
    }
    *broken_out = memchr(name, 0, length_bytes)
                      ? qimg_decode_broken(QIMG_RULE_BACKING_NAME_NUL, length_bytes)
                      : qimg_decode_ok();
    return g_steal_pointer(&name);
}

bool
qimg_refuse_header(GError **error, QimgDecode broken, QimgRule magic, const char *advice)
{
    qimg_set_error(
        error, broken.rule == magic ? QIMG_ERROR_NOT_AN_IMAGE : QIMG_ERROR_INVALID,
        "%s: is %" PRIu64 " (0x%" PRIx64 ") and %s (%s)", qimg_rule_field(broken.rule),
        broken.value, broken.value, qimg_rule_text(broken.rule), advice);
    return false;
}

QimgErrno
qimg_format_read_stream(QimgFormat *format, QimgCodec codec, QimgHostOffset host_offset,
                        uint32_t stream_bytes, uint8_t *cluster_out)
{
    uint8_t *stream = qimg_scratch_get(QIMG_SCRATCH_STREAM, stream_bytes);
    QimgErrno err;

    if (!stream)
        return -ENOMEM;
    err = qimg_storage_read(format->file, QIMG_IO_COMPRESSED, host_offset, stream,
                            stream_bytes);
    if (err)
        return err;
    return qimg_decompress(codec, stream, stream_bytes, cluster_out,
                           format->cluster_bytes);
}

void
qimg_format_warn(QimgFormat *format, const char *text, ...)
{
    va_list args;

    va_start(args, text);
    g_ptr_array_add(format->warnings, g_strdup_vprintf(text, args));
    va_end(args);
}
