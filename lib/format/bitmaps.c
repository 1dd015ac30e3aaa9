/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of bitmaps. */
#include "format/bitmaps.h"

#include <string.h>

#include "base/errors.h"

QimgBitmaps *
qimg_bitmaps_new(unsigned n)
{
    QimgBitmaps *list = g_try_new0(QimgBitmaps, 1);

    if (!list)
        return NULL;
    atomic_init(&list->refs, 1);
    list->items = g_try_new0(QimgFormatBitmap, MAX(n, 1));
    if (!list->items)
        g_clear_pointer(&list, g_free);
    return list;
}

QimgBitmaps *
qimg_bitmaps_ref(QimgBitmaps *list)
{
    atomic_fetch_add_explicit(&list->refs, 1, memory_order_relaxed);
    return list;
}

void
qimg_bitmaps_unref(QimgBitmaps *list)
{
    /* Acquire and release: the last one sees the writes of the others. */
    if (!list || atomic_fetch_sub_explicit(&list->refs, 1, memory_order_acq_rel) > 1)
        return;
    for (unsigned i = 0; i < list->n; i++)
        g_free((char *)list->items[i].facts.name);
    g_free(list->items);
    g_free(list);
}

unsigned
qimg_bitmaps_get_n(const QimgBitmaps *list)
{
    return list->n;
}

const QimgBitmap *
qimg_bitmaps_get(const QimgBitmaps *list, unsigned place)
{
    return place < list->n ? &list->items[place].facts : NULL;
}

const char *
qimg_bitmaps_get_damage(const QimgBitmaps *list)
{
    return list->damage;
}

int
qimg_bitmaps_place_of(const QimgBitmaps *list, const char *name, size_t name_bytes)
{
    for (unsigned i = 0; i < list->n; i++)
        if (list->items[i].facts.name_bytes == name_bytes &&
            memcmp(list->items[i].facts.name, name, name_bytes) == 0)
            return (int)i;
    return -1;
}

gboolean
qimg_bitmaps_find(const QimgBitmaps *list, const char *name, unsigned *place_out,
                  GError **error)
{
    int place = qimg_bitmaps_place_of(list, name, strlen(name));

    if (place < 0) {
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND,
                       "there is no bitmap \"%s\" (qimg bitmap --list shows them)", name);
        return FALSE;
    }
    *place_out = (unsigned)place;
    return TRUE;
}
