/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of formats, probing, and what all open layers share. */
#include <string.h>

#include "base/errors.h"
#include "format/driver.h"

/* Order of probing; raw takes what nobody else wants. */
static const QimgDriver *const drivers[] = {
    &qimg_driver_qcow2,
    &qimg_driver_qed,
    &qimg_driver_raw,
};

/* Formats that must not be taken for raw data: their bytes are not the disk's. */
static const struct {
    const char *name;
    size_t position;
    size_t n_bytes;
    const char *magic;
} foreign_formats[] = {
    {"qcow version 1", 0, 8, "QFI\xfb\0\0\0\1"},
    {"VMDK", 0, 4, "KDMV"},
    {"VHDX", 0, 8, "vhdxfile"},
    {"LUKS", 0, 6, "LUKS\xba\xbe"},
    {"Parallels", 0, 16, "WithoutFreeSpace"},
    {"Parallels", 0, 16, "WithouFreSpacExt"},
    {"VHD", 0, 8, "conectix"},
    {"VDI", 64, 4, "\x7f\x10\xda\xbe"},
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
qimg_driver_list(bool can_create)
{
    GString *list = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++)
        if (drivers[i]->create || !can_create)
            g_string_append_printf(list, "%s%s",
                                   list->len == 0                   ? ""
                                   : i + 1 == G_N_ELEMENTS(drivers) ? " or "
                                                                    : ", ",
                                   drivers[i]->name);
    return g_string_free(list, FALSE);
}

const QimgDriver *
qimg_driver_probe(const uint8_t *bytes, size_t n_bytes, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++)
        if (drivers[i]->probe && drivers[i]->probe(bytes, n_bytes))
            return drivers[i];
    for (size_t i = 0; i < G_N_ELEMENTS(foreign_formats); i++) {
        size_t end = foreign_formats[i].position + foreign_formats[i].n_bytes;

        if (n_bytes >= end &&
            memcmp(bytes + foreign_formats[i].position, foreign_formats[i].magic,
                   foreign_formats[i].n_bytes) == 0) {
            qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                           "is a %s image, which this version cannot read (convert it "
                           "with qemu-img convert, or show its bytes with -o format=raw)",
                           foreign_formats[i].name);
            return NULL;
        }
    }
    return &qimg_driver_raw;
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

void
qimg_format_warn(QimgFormat *format, const char *text, ...)
{
    va_list args;

    va_start(args, text);
    g_ptr_array_add(format->warnings, g_strdup_vprintf(text, args));
    va_end(args);
}
