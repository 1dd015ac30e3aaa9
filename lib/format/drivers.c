/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of formats, probing, and what all open layers share. */
#include <errno.h>
#include <string.h>

#include "base/errors.h"
#include "base/scratch.h"
#include "format/driver.h"

/* Order of probing; raw takes what nobody else wants. */
static const QimgDriver *const drivers[] = {
    &qimg_driver_qcow2,
    &qimg_driver_qed,
    &qimg_driver_qcow1,
    &qimg_driver_raw,
};

const QimgDriver *
qimg_driver_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++)
        if (strcmp(drivers[i]->name, name) == 0)
            return drivers[i];
    return NULL;
}

char *
qimg_driver_names(bool made_only)
{
    GString *names = g_string_new(NULL);
    size_t n = 0, n_added = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++)
        n += !made_only || drivers[i]->create;
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (made_only && !drivers[i]->create)
            continue;
        if (n_added > 0)
            g_string_append(names, n_added + 1 < n ? ", " : " or ");
        g_string_append(names, drivers[i]->name);
        n_added++;
    }
    return g_string_free(names, FALSE);
}

const QimgDriver *
qimg_driver_probe(const uint8_t *bytes, size_t n_bytes, const QimgForeign **foreign_out)
{
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++)
        if (drivers[i]->probe && drivers[i]->probe(bytes, n_bytes))
            return drivers[i];
    *foreign_out = qimg_foreign_find(bytes, n_bytes);
    return *foreign_out ? NULL : &qimg_driver_raw;
}

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

void
qimg_format_close(QimgFormat *format)
{
    if (!format)
        return;
    if (format->is_writable && format->file && format->driver->end_writing)
        format->driver->end_writing(format);
    behind_free(format->behind);
    qimg_snapshots_unref(format->snapshots);
    g_free(format->backing_name);
    g_free(format->backing_format);
    g_free(format->data_file_name);
    g_ptr_array_unref(format->warnings);
    qimg_index_set_free(format->metadata);
    inflight_set_free(format->inflight);
    qimg_storage_close(format->data_file);
    qimg_storage_close(format->file);
    format->driver->close(format);
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
