/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Partitions of an image's disk: the public list, read through a handle, and as JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "image/image.h"
#include "image/json.h"
#include "image/partition-table.h"

/* Of a table with more partitions, the content of the others is not looked into. */
#define MAX_PROBED 128u

static QimgErrno
read_image(void *user, uint64_t offset_bytes, void *buffer, size_t length_bytes)
{
    return qimg_image_read(user, offset_bytes, buffer, length_bytes);
}

QimgPartitions *
qimg_partitions_read(QimgImage *image)
{
    const PartitionSource source = {
        .read = read_image,
        .user = image,
        .size_bytes = image_size_bytes(image),
    };

    return partition_table_read(&source);
}

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

/* ---- JSON ---- */

static void
add_text(json_t *o, const char *name, const char *text)
{
    g_autofree char *utf8 = text ? json_utf8_of(text, strlen(text)) : NULL;

    if (utf8)
        json_object_set_new(o, name, json_string(utf8));
}

static void
add_number(json_t *o, const char *name, uint64_t number)
{
    json_object_set_new(o, name, json_integer((json_int_t)number));
}

/* The names of a GPT's attributes; those from 48 on are up to the type, and are called
 * what Microsoft's and systemd's types mean by them. */
static json_t *
flags_json(const QimgPartition *item)
{
    static const char *const names[64] = {
        [0] = "required", [1] = "no-block-io",   [2] = "legacy-bootable",
        [59] = "grow",    [60] = "read-only",    [61] = "shadow-copy",
        [62] = "hidden",  [63] = "no-automount",
    };
    json_t *flags = json_array();

    if (item->is_bootable)
        json_array_append_new(flags, json_string("bootable"));
    for (unsigned bit = 0; bit < 64; bit++) {
        char number[16];

        if (!(item->attributes >> bit & 1))
            continue;
        snprintf(number, sizeof number, "bit-%u", bit);
        json_array_append_new(flags, json_string(names[bit] ? names[bit] : number));
    }
    return flags;
}

static void
add_content(json_t *o, QimgImage *image, const QimgPartition *item)
{
    g_autoptr(QimgImage) part =
        qimg_image_open_part(image, item->start_bytes, item->length_bytes, NULL);
    PartitionContent content = {0};
    json_t *found;

    if (!part || !partition_content_probe(part, &content))
        return;
    found = json_object();
    add_text(found, "usage", content.usage);
    add_text(found, "type", content.type);
    add_text(found, "version", content.version);
    add_text(found, "label", content.label);
    add_text(found, "uuid", content.uuid);
    json_object_set_new(o, "content", found);
    partition_content_clear(&content);
}

static json_t *
partition_json(const QimgPartition *item)
{
    json_t *o = json_object();

    add_number(o, "number", item->number);
    if (!item->is_extended) {
        g_autofree char *file = g_strdup_printf("%u.raw", item->number);

        add_text(o, "file", file);
    }
    add_number(o, "start", item->start_bytes);
    add_number(o, "length", item->length_bytes);
    add_text(o, "type", item->type);
    add_text(o, "type-name", item->type_name);
    add_text(o, "label", item->label);
    add_text(o, "uuid", item->uuid);
    json_object_set_new(o, "flags", flags_json(item));
    return o;
}

char *
qimg_partitions_json(const QimgPartitions *list, QimgImage *image)
{
    json_t *root = json_object(), *items = json_array(), *notes = json_array();

    add_text(root, "table", list->kind == PARTITION_TABLE_GPT ? "gpt" : "mbr");
    add_number(root, "sector-size", list->sector_bytes);
    add_text(root, "disk-id", list->disk_id);
    for (unsigned i = 0; i < list->items->len; i++) {
        const QimgPartition *item = qimg_partitions_get(list, i);
        json_t *o = partition_json(item);

        if (image && !item->is_extended && i < MAX_PROBED)
            add_content(o, image, item);
        json_array_append_new(items, o);
    }
    for (guint i = 0; i < list->notes->len; i++)
        json_array_append_new(notes, json_string(list->notes->pdata[i]));
    json_object_set_new(root, "partitions", items);
    json_object_set_new(root, "notes", notes);
    return json_finish(root);
}
