/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of partitions: references and its members. */
#include "partition/list.h"

QimgPartitions *
qimg_partitions_ref(QimgPartitions *list)
{
    atomic_fetch_add_explicit(&list->refs, 1, memory_order_relaxed);
    return list;
}

void
qimg_partitions_unref(QimgPartitions *list)
{
    if (!list || atomic_fetch_sub_explicit(&list->refs, 1, memory_order_acq_rel) > 1)
        return;
    for (guint i = 0; i < list->items->len; i++) {
        const QimgPartition *item = &g_array_index(list->items, QimgPartition, i);

        g_free((char *)item->type);
        g_free((char *)item->label);
        g_free((char *)item->uuid);
    }
    g_array_unref(list->items);
    g_ptr_array_unref(list->notes);
    g_free(list->disk_id);
    g_free(list->other_kind);
    g_free(list);
}

unsigned
qimg_partitions_get_n(const QimgPartitions *list)
{
    return list->items->len;
}

const QimgPartition *
qimg_partitions_get(const QimgPartitions *list, unsigned place)
{
    return place < list->items->len ? &g_array_index(list->items, QimgPartition, place)
                                    : NULL;
}
