/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Persistent bitmaps: the content of their directory. Spec: bitmaps section 2. */
#include "format/qcow2/bitmap/bitmap-list.h"

#include "format/bitmaps.h"

#include <errno.h>

/* Directory bytes per read: dozens of entries at least. An entry that is longer, because
 * of unknown data, ends the list. */
#define WINDOW_BYTES (64 * QIMG_KIB)

static void
clear_bitmap(gpointer data)
{
    g_free(((QimgListedBitmap *)data)->name);
}

/* Reads @n_bytes of the directory at @position; NULL with *@err_out set. */
static uint8_t *
load_window(Qcow2 *q, uint64_t position, uint64_t n_bytes, QimgErrno *err_out)
{
    const Qcow2BitmapsExtension *e = &q->bitmaps;
    g_autofree uint8_t *bytes = NULL;

    *err_out = -EIO;
    if (qimg_format_is_beyond_end(&q->base, e->directory_offset + e->directory_bytes - 1))
        return NULL;
    bytes = g_try_malloc(n_bytes);
    *err_out = -ENOMEM;
    if (!bytes)
        return NULL;
    *err_out =
        qimg_storage_read(q->base.file, QIMG_IO_BITMAP,
                          qimg_host(e->directory_offset + position), bytes, n_bytes);
    return *err_out ? NULL : g_steal_pointer(&bytes);
}

QimgErrno
qcow2_list_bitmaps(QimgFormat *format, uint64_t *position, GArray **bitmaps_out)
{
    Qcow2 *q = (Qcow2 *)format;
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(QimgListedBitmap));
    g_autofree uint8_t *window = NULL;
    uint64_t directory_bytes = q->bitmaps.directory_bytes;
    uint64_t n_bytes, at = 0;
    QimgErrno err;

    g_array_set_clear_func(list, clear_bitmap);
    /* Without the bit they are stale: a program without support for them has written. */
    if (q->bitmaps.n_bitmaps == 0 || *position >= directory_bytes ||
        !(q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS)) {
        *bitmaps_out = g_steal_pointer(&list);
        return 0;
    }
    n_bytes = qimg_min_u64(directory_bytes - *position, WINDOW_BYTES);
    window = load_window(q, *position, n_bytes, &err);
    if (!window)
        return err;
    while (at < n_bytes) {
        Qcow2BitmapEntry e;
        QimgListedBitmap bitmap;

        if (qcow2_bitmap_entry_decode(window + at, n_bytes - at, &e).rule) {
            if (n_bytes < directory_bytes - *position) /* possibly cut by the window */
                break;
            return -EIO;
        }
        bitmap = (QimgListedBitmap){
            .name = g_strndup((const char *)window + at + e.name_position, e.name_bytes),
            .name_bytes = e.name_bytes,
            .granularity_bits = e.granularity_bits,
            .is_in_use = e.flags & QCOW2_BITMAP_IN_USE,
            .is_auto = e.flags & QCOW2_BITMAP_AUTO,
        };
        g_array_append_val(list, bitmap);
        at += e.entry_bytes;
    }
    *position += at;
    *bitmaps_out = g_steal_pointer(&list);
    return 0;
}
