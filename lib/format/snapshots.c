/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of snapshots. */
#include "format/snapshots.h"

#include <string.h>

#include "base/errors.h"

static atomic_uint *
new_box(void)
{
    atomic_uint *box = g_atomic_rc_box_new0(atomic_uint);

    atomic_init(box, 0);
    return box;
}

QimgSnapshots *
qimg_snapshots_new(QimgFormatSnapshot *items, unsigned n)
{
    QimgSnapshots *list = g_new0(QimgSnapshots, 1);

    atomic_init(&list->refs, 1);
    list->items = items;
    list->n = n;
    for (unsigned i = 0; i < n; i++) {
        items[i].facts.struct_bytes = sizeof items[i].facts;
        items[i].facts.serial = i;
        items[i].n_handles = new_box();
    }
    return list;
}

void
qimg_snapshots_adopt(QimgSnapshots *list, const QimgSnapshots *old,
                     unsigned removed_place, uint32_t new_serial)
{
    for (unsigned i = 0; i < list->n; i++) {
        QimgFormatSnapshot *item = &list->items[i];
        unsigned old_place = i < removed_place ? i : i + 1;

        if (old_place >= old->n) {
            item->facts.serial = new_serial;
            continue;
        }
        g_atomic_rc_box_release(item->n_handles);
        item->n_handles = g_atomic_rc_box_acquire(old->items[old_place].n_handles);
        item->facts.serial = old->items[old_place].facts.serial;
    }
}

QimgSnapshots *
qimg_snapshots_ref(QimgSnapshots *list)
{
    atomic_fetch_add_explicit(&list->refs, 1, memory_order_relaxed);
    return list;
}

void
qimg_format_snapshot_clear(QimgFormatSnapshot *snapshot)
{
    g_free((char *)snapshot->facts.id);
    g_free((char *)snapshot->facts.name);
}

void
qimg_snapshots_unref(QimgSnapshots *list)
{
    if (!list || atomic_fetch_sub_explicit(&list->refs, 1, memory_order_acq_rel) > 1)
        return;
    for (unsigned i = 0; i < list->n; i++) {
        qimg_format_snapshot_clear(&list->items[i]);
        g_atomic_rc_box_release(list->items[i].n_handles);
    }
    g_free(list->items);
    g_free(list);
}

unsigned
qimg_snapshots_get_n(const QimgSnapshots *list)
{
    return list->n;
}

const QimgSnapshot *
qimg_snapshots_get(const QimgSnapshots *list, unsigned place)
{
    return place < list->n ? &list->items[place].facts : NULL;
}

QimgFormatSnapshot *
qimg_snapshots_find_serial(const QimgSnapshots *list, uint32_t serial)
{
    /* Numbers rise along the list: new snapshots come last. */
    unsigned low = 0, high = list->n;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        if (list->items[middle].facts.serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return low < list->n && list->items[low].facts.serial == serial ? &list->items[low]
                                                                    : NULL;
}

static bool
is_text(const char *text, size_t n_bytes, const char *wanted)
{
    return n_bytes == strlen(wanted) && memcmp(text, wanted, n_bytes) == 0;
}

const QimgSnapshot *
qimg_snapshots_find(const QimgSnapshots *list, const char *wanted, GError **error)
{
    const QimgSnapshot *found = NULL;
    g_autoptr(GString) ids = g_string_new(NULL);
    unsigned n_found = 0;

    for (unsigned i = 0; i < list->n; i++) {
        const QimgSnapshot *s = &list->items[i].facts;
        g_autofree char *id = NULL;

        if (!is_text(s->name, s->name_bytes, wanted) &&
            !is_text(s->id, s->id_bytes, wanted))
            continue;
        found = s;
        id = g_strescape(s->id, NULL);
        g_string_append_printf(ids, "%s%s", n_found++ > 0 ? ", " : "", id);
    }
    if (n_found == 1)
        return found;
    if (n_found == 0)
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND,
                       "no snapshot has the name or ID \"%s\" (see qimg snapshot list)",
                       wanted);
    else
        qimg_set_error(
            error, QIMG_ERROR_USAGE,
            "\"%s\" is the name or ID of several snapshots (give another ID of "
            "%s, or rename one by it first)",
            wanted, ids->str);
    return NULL;
}
