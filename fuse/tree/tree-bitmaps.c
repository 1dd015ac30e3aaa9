/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The directory of bitmaps: a file for each bitmap of each layer. Its positions are the
 * bitmaps' indices, which change only with the files of the image. */
#include "tree/tree-bitmaps.h"

#include <errno.h>

#include "images/bitmap-dir.h"

/* The place of @node; NULL with @error set. It belongs to *@dir_out. */
static const BitmapPlace *
bitmap_of(ImageEntry *entry, Node node, BitmapDir **dir_out, GError **error)
{
    const BitmapPlace *place;

    *dir_out = bitmap_dir_get(&entry->bitmaps, entry->image);
    place = bitmap_dir_find(*dir_out, node.index);
    if (!place)
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND, "the bitmap has gone");
    return place;
}

static Node
bitmap_node(Node parent, unsigned index)
{
    return (Node){.kind = NODE_BITMAP, .image_index = parent.image_index, .index = index};
}

int
tree_check_bitmap(const Tree *tree, Node node)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(BitmapDir) dir = NULL;
    int err = tree_pin(tree, node, &entry);

    if (err)
        return err;
    return node.part == 0 && bitmap_of(entry, node, &dir, NULL) ? 0 : -ENOENT;
}

int
tree_child_bitmap(const Tree *tree, Node parent, uint64_t *position, Node *child_out,
                  char **name_out)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(BitmapDir) dir = NULL;
    int err;

    if (*position > UINT32_MAX)
        return -ENOENT;
    err = tree_pin(tree, parent, &entry);
    if (err)
        return err;
    *child_out = bitmap_node(parent, (unsigned)*position);
    if (!bitmap_of(entry, *child_out, &dir, NULL))
        return -ENOENT;
    *name_out = g_strdup(dir->files.names->pdata[child_out->index]);
    ++*position;
    return 0;
}

int
tree_lookup_bitmap(const Tree *tree, Node parent, const char *name, Node *child_out)
{
    g_autoptr(ImageEntry) entry = NULL;
    g_autoptr(BitmapDir) dir = NULL;
    unsigned index;
    int err = tree_pin(tree, parent, &entry);

    if (err)
        return err;
    dir = bitmap_dir_get(&entry->bitmaps, entry->image);
    if (!name_dir_find(&dir->files, name, &index))
        return -ENOENT;
    *child_out = bitmap_node(parent, index);
    return 0;
}

QimgImage *
tree_open_bitmap_layer(ImageEntry *entry, Node node, GError **error)
{
    g_autoptr(BitmapDir) dir = NULL;
    const BitmapPlace *place = bitmap_of(entry, node, &dir, error);

    return place ? qimg_image_open_layer(entry->image, place->layer, error) : NULL;
}

QimgBitmapReader *
tree_read_bitmap(ImageEntry *entry, Node node, QimgImage *layer, unsigned *layer_out,
                 GError **error)
{
    g_autoptr(BitmapDir) dir = NULL;
    g_autoptr(QimgBitmaps) list = qimg_image_read_bitmaps(layer, error);
    const BitmapPlace *place = list ? bitmap_of(entry, node, &dir, error) : NULL;

    if (!place)
        return NULL;
    if (place->place >= qimg_bitmaps_get_n(list)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND, "the bitmap has gone");
        return NULL;
    }
    *layer_out = place->layer;
    return qimg_bitmap_reader_new(layer, list, place->place);
}
