/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host files of a chain, for callers. */
#include "base/struct-size.h"
#include "image/image.h"
#include "storage/same-file.h"

/* Of the files from layer @first_layer down, each layer's image file before its data
 * file, the one of number @file, and its layer; NULL beyond the last. */
static QimgStorage *
storage_at(const QimgChain *chain, unsigned first_layer, unsigned file,
           unsigned *layer_out)
{
    for (unsigned i = first_layer; i < chain->n_layers; i++) {
        QimgStorage *storages[] = {chain->layers[i]->file, chain->layers[i]->data_file};

        for (size_t j = 0; j < G_N_ELEMENTS(storages); j++)
            if (storages[j] && file-- == 0) {
                *layer_out = i;
                return storages[j];
            }
    }
    return NULL;
}

gboolean
qimg_image_get_file(const QimgImage *image, unsigned file, QimgFile *out)
{
    const QimgChain *chain = image->chain;
    unsigned layer;
    QimgStorage *storage = storage_at(chain, image->first_layer, file, &layer);
    QimgFile own;

    if (!storage)
        return FALSE;
    own = (QimgFile){
        .struct_bytes = sizeof own,
        .depth = layer - image->first_layer,
        .is_data_file = storage == chain->layers[layer]->data_file,
        .path = storage->path,
        .status = &storage->status,
        .fd = storage->ops->get_fd ? storage->ops->get_fd(storage) : -1,
    };
    if (qimg_storage_get_size(storage, &own.size_bytes) != 0)
        own.size_bytes = 0;
    return qimg_struct_give(out, &own, sizeof own);
}

gboolean
qimg_image_has_file(const QimgImage *image, const struct stat *status)
{
    const QimgStorage *storage;
    unsigned layer;

    for (unsigned i = 0; (storage = storage_at(image->chain, 0, i, &layer)); i++)
        if (qimg_is_same_file(&storage->status, status))
            return TRUE;
    return FALSE;
}
