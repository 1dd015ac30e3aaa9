/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Persistent bitmaps: lists of them, their extents, both as JSON. */
#include <errno.h>
#include <inttypes.h>

#include "base/errors.h"
#include "base/json.h"
#include "base/struct-size.h"
#include "image/chain/changes.h"
#include "image/chain/handle.h"
#include "image/write/write.h"

struct QimgBitmapReader {
    QimgImage *image;  /* borrowed */
    QimgBitmaps *list; /* a reference */
    QimgBitmapCursor cursor;
};

QimgBitmaps *
qimg_image_read_bitmaps(QimgImage *image, GError **error)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    QimgFormat *layer = image->chain->layers[image->first_layer];
    QimgBitmaps *list = NULL;
    QimgErrno err = 0;

    if (layer->driver->load_bitmaps && !image->is_snapshot)
        err = layer->driver->load_bitmaps(layer, &list);
    else if (!(list = qimg_bitmaps_new(0)))
        err = -ENOMEM;
    if (err)
        qimg_set_error_errno(error, -err, NULL, "cannot read the list of bitmaps");
    return list;
}

const char *
qimg_bitmap_get_reason(const QimgBitmap *bitmap)
{
    if (bitmap->is_stale)
        return "stale: the disk was changed by a program that does not know bitmaps";
    if (bitmap->damage)
        return bitmap->damage;
    if (bitmap->is_in_use)
        return "in use: it was not stored when the image was closed, or a program has "
               "the image open";
    return NULL;
}

static void
add_bitmap_name(json_t *object, const QimgBitmap *bitmap)
{
    g_autofree char *utf8 = qimg_json_utf8(bitmap->name, bitmap->name_bytes);

    json_object_set_new(object, "name", json_string(utf8));
}

char *
qimg_bitmap_json(const QimgBitmap *bitmap)
{
    json_t *o = json_object();

    add_bitmap_name(o, bitmap);
    qimg_json_add_number(o, "granularity", bitmap->granularity_bytes);
    qimg_json_add_number(o, "disk-size", bitmap->size_bytes);
    json_object_set_new(o, "enabled", json_boolean(bitmap->is_enabled));
    json_object_set_new(o, "in-use", json_boolean(bitmap->is_in_use));
    json_object_set_new(o, "stale", json_boolean(bitmap->is_stale));
    qimg_json_add_text(o, "damaged", bitmap->damage);
    return qimg_json_finish(o);
}

QimgBitmapReader *
qimg_bitmap_reader_new(QimgImage *image, QimgBitmaps *list, unsigned place)
{
    QimgBitmapReader *reader;

    g_return_val_if_fail(place < list->n, NULL);
    reader = g_new0(QimgBitmapReader, 1);
    reader->image = image;
    reader->list = qimg_bitmaps_ref(list);
    reader->cursor.list = list;
    reader->cursor.place = place;
    return reader;
}

void
qimg_bitmap_reader_free(QimgBitmapReader *reader)
{
    if (!reader)
        return;
    qimg_bitmaps_unref(reader->list);
    g_free(reader);
}

int
qimg_bitmap_reader_map(QimgBitmapReader *reader, uint64_t guest_offset,
                       QimgBitmapExtent *out)
{
    QIMG_GATE_SCOPE(reader->image->chain->gate);
    QimgChain *chain = reader->image->chain;
    QimgFormat *layer = chain->layers[reader->image->first_layer];
    QimgBitmapExtent extent = {.struct_bytes = sizeof extent,
                               .guest_offset = guest_offset};
    bool is_dirty = false;
    QimgErrno err = layer->driver->map_bitmap(layer, &reader->cursor, guest_offset,
                                              &is_dirty, &extent.length_bytes);

    if (err)
        return err;
    if (chain_is_stale(chain))
        return -EIO;
    extent.is_dirty = is_dirty;
    return qimg_struct_give(out, &extent, sizeof extent) ? 0 : -EINVAL;
}

/* The members before the extents, or all of them. */
static void
append_bitmap_head(const QimgBitmapReader *reader, unsigned layer, const char *reason,
                   GString *out)
{
    const QimgBitmap *bitmap = &reader->list->items[reader->cursor.place].facts;
    json_t *o = json_object();

    add_bitmap_name(o, bitmap);
    qimg_json_add_number(o, "layer", layer);
    qimg_json_add_number(o, "granularity", bitmap->granularity_bytes);
    qimg_json_add_number(o, "disk-size", bitmap->size_bytes);
    json_object_set_new(o, "enabled", json_boolean(bitmap->is_enabled));
    json_object_set_new(o, "inconsistent", json_boolean(reason != NULL));
    qimg_json_add_text(o, "reason", reason);
    g_string_append(out, "{\n    ");
    qimg_json_append_members(out, o, 1);
}

int
qimg_bitmap_reader_next_json(QimgBitmapReader *reader, unsigned layer, uint64_t *place,
                             GString *out)
{
    const QimgBitmap *bitmap = &reader->list->items[reader->cursor.place].facts;
    const char *reason = qimg_bitmap_get_reason(bitmap);
    QimgBitmapExtent extent = {.struct_bytes = sizeof extent};
    bool is_first = *place == 0;
    QimgErrno err = 0;

    if (*place == UINT64_MAX)
        return 0;
    if (!reason && *place < bitmap->size_bytes)
        err = qimg_bitmap_reader_map(reader, *place, &extent);
    if (err)
        return err;
    if (is_first)
        append_bitmap_head(reader, layer, reason, out);
    if (is_first && !reason)
        g_string_append(out, ",\n    \"extents\": [");
    *place += extent.length_bytes;
    if (extent.length_bytes > 0)
        g_string_append_printf(out,
                               "%s\n        {\"start\": %" PRIu64 ", \"length\": %" PRIu64
                               ", \"dirty\": %s}",
                               is_first ? "" : ",", extent.guest_offset,
                               extent.length_bytes, extent.is_dirty ? "true" : "false");
    if (reason || *place >= bitmap->size_bytes) {
        g_string_append(out, reason ? "\n}\n" : "\n    ]\n}\n");
        *place = UINT64_MAX;
    }
    return 0;
}

/* Makes a reader of the source of a merge from another image. */
static QimgBitmapReader *
open_merge_source(const QimgBitmapAction *action, uint64_t size_bytes, GError **error)
{
    g_autoptr(QimgBitmaps) list = qimg_image_read_bitmaps(action->source_image, error);
    const QimgBitmap *bitmap;
    const char *reason;
    unsigned place;

    if (!list || !qimg_bitmaps_find(list, action->source, &place, error))
        return NULL;
    bitmap = qimg_bitmaps_get(list, place);
    reason = qimg_bitmap_get_reason(bitmap);
    if (!reason && bitmap->size_bytes == size_bytes)
        return qimg_bitmap_reader_new(action->source_image, list, place);
    if (reason)
        qimg_set_error(error, QIMG_ERROR_BUSY,
                       "the bits of the bitmap \"%s\" cannot be told: %s", action->source,
                       reason);
    else
        qimg_set_error(error, QIMG_ERROR_INVALID,
                       "the disk of the bitmap \"%s\" has %" PRIu64
                       " bytes, not %" PRIu64,
                       action->source, bitmap->size_bytes, size_bytes);
    return NULL;
}

/* Fills @out from the caller's @actions; adds readers that they need to @readers. */
static bool
resolve_actions(const QimgImage *image, const QimgBitmapAction *const *actions,
                unsigned n_actions, QimgFormatBitmapAction *out, GPtrArray *readers,
                GError **error)
{
    for (unsigned i = 0; i < n_actions; i++) {
        QimgBitmapReader *reader;
        QimgBitmapAction own;

        if (!qimg_struct_take(&own, sizeof own, actions[i]))
            return qimg_misuse(error, "struct_bytes of an action is not set");
        out[i] = (QimgFormatBitmapAction){.kind = own.kind,
                                          .granularity_bytes = own.granularity_bytes,
                                          .source = own.source};
        if (own.kind != QIMG_BITMAP_MERGE || !own.source_image)
            continue;
        reader = open_merge_source(&own, image_size_bytes(image), error);
        if (!reader)
            return false;
        g_ptr_array_add(readers, reader);
        out[i].source_layer = own.source_image->chain->layers[reader->image->first_layer];
        out[i].source_cursor = &reader->cursor;
    }
    return true;
}

static void
free_reader(gpointer reader)
{
    qimg_bitmap_reader_free(reader);
}

gboolean
qimg_image_change_bitmaps(QimgImage *image, const char *name,
                          const QimgBitmapAction *const *actions, unsigned n_actions,
                          QimgProgress progress, void *user, GError **error)
{
    const QimgTask task = {progress, user};
    g_autofree QimgFormatBitmapAction *own = g_new0(QimgFormatBitmapAction, n_actions);
    g_autoptr(GPtrArray) readers = g_ptr_array_new_with_free_func(free_reader);
    QimgChain *chain = image->chain;
    QimgFormat *top = chain->layers[0];
    bool is_good;

    if (!qimg_image_is_writable(image) || image->whole || chain->image_layer != 0) {
        qimg_set_error(error, QIMG_ERROR_READ_ONLY,
                       "the image is not open for writing (open it with the option rw)");
        return FALSE;
    }
    if (!top->driver->change_bitmaps) {
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "the format %s has no bitmaps (convert the image to qcow2)",
                       top->driver->name);
        return FALSE;
    }
    if (!resolve_actions(image, actions, n_actions, own, readers, error))
        return FALSE;
    qimg_gate_close(chain->gate);
    is_good = top->driver->change_bitmaps(top, name, own, n_actions, &task, error);
    qimg_gate_open(chain->gate);
    image_after_change(chain, 0);
    return is_good;
}
