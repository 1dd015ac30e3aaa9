/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Partitions of an image's disk: the public list, read through a handle, and its JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "partition/content.h"
#include "partition/list.h"
#include "partition/scan.h"

/* The limit of partitions per table whose content is probed. */
#define MAX_PROBED 128u

static QimgErrno
probe_read(void *user, uint64_t offset_bytes, void *buffer, size_t length_bytes)
{
    return qimg_image_read(user, offset_bytes, buffer, length_bytes);
}

static PartitionSource
source_of(QimgImage *image)
{
    return (PartitionSource){
        .read = probe_read,
        .user = image,
        .size_bytes = qimg_image_get_size_bytes(image),
    };
}

QimgPartitions *
qimg_partitions_read(QimgImage *image)
{
    const PartitionSource source = source_of(image);

    return partition_scan(&source);
}

/* ---- JSON ---- */

/* The names of a GPT's attributes; bits from 48 on depend on the type, and have the names
 * given by Microsoft's and systemd's types. */
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
    PartitionSource source;
    json_t *found;

    if (!part)
        return;
    source = source_of(part);
    if (!partition_content_probe(&source, &content))
        return;
    found = json_object();
    qimg_json_add_text(found, "usage", content.usage);
    qimg_json_add_text(found, "type", content.type);
    qimg_json_add_text(found, "version", content.version);
    qimg_json_add_text(found, "label", content.label);
    qimg_json_add_text(found, "uuid", content.uuid);
    json_object_set_new(o, "content", found);
    partition_content_clear(&content);
}

static json_t *
partition_json(const QimgPartition *item)
{
    json_t *o = json_object();

    qimg_json_add_number(o, "number", item->number);
    if (!item->is_extended) {
        g_autofree char *file = g_strdup_printf("%u.raw", item->number);

        qimg_json_add_text(o, "file", file);
    }
    qimg_json_add_number(o, "start", item->start_bytes);
    qimg_json_add_number(o, "length", item->length_bytes);
    qimg_json_add_text(o, "type", item->type);
    qimg_json_add_text(o, "type-name", item->type_name);
    qimg_json_add_text(o, "label", item->label);
    qimg_json_add_text(o, "uuid", item->uuid);
    json_object_set_new(o, "flags", flags_json(item));
    return o;
}

char *
qimg_partitions_json(const QimgPartitions *list, QimgImage *image)
{
    json_t *root = json_object(), *items = json_array(), *notes = json_array();

    qimg_json_add_text(root, "table",
                       list->kind == PARTITION_TABLE_OTHER ? list->other_kind
                       : list->kind == PARTITION_TABLE_GPT ? "gpt"
                                                           : "mbr");
    qimg_json_add_number(root, "sector-size", list->sector_bytes);
    qimg_json_add_text(root, "disk-id", list->disk_id);
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
    return qimg_json_finish(root);
}
