/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Closing an open layer. */
#include "format/driver.h"

void
qimg_format_close(QimgFormat *format)
{
    if (!format)
        return;
    if (format->is_writable && format->file && format->driver->end_writing)
        format->driver->end_writing(format);
    behind_free(format->behind);
    qimg_cipher_free(format->cipher);
    qimg_sectors_free(format->sectors);
    g_free(format->luks);
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
