/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Handles: the image itself, its layers, snapshots and VM states, and their plain facts.
 */
#include "image/image.h"

#include <errno.h>
#include <string.h>

#include "base/errors.h"

const char *
qimg_version(void)
{
    return QIMG_VERSION;
}

QimgImage *
image_new(QimgChain *chain, unsigned first_layer, const QimgView *view)
{
    QimgImage *image = g_new0(QimgImage, 1);

    image->chain = chain_ref(chain);
    image->first_layer = first_layer;
    image->own_view = *view;
    image->view = view == &chain->layers[first_layer]->active ? view : &image->own_view;
    image->is_disk = first_layer == 0 && image->view == view;
    image->size_bytes = view->size_bytes;
    image->has_backing = first_layer + 1 < chain->n_layers;
    return image;
}

QimgImage *
qimg_image_open(const char *path, const QimgOptions *options, GError **error)
{
    g_autoptr(QimgOptions) defaults = NULL;
    QimgChain *chain;
    QimgImage *image;

    if (!options)
        options = defaults = qimg_options_new();
    chain = chain_open(path, options, error);
    if (!chain)
        return NULL;
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return image;
}

QimgImage *
qimg_image_open_layer(QimgImage *image, unsigned depth, GError **error)
{
    unsigned layer = image->first_layer + depth;

    if (depth >= image->chain->n_layers - image->first_layer) {
        qimg_set_error(error, QIMG_ERROR_USAGE, "there is no layer %u", depth);
        return NULL;
    }
    return image_new(image->chain, layer, &image->chain->layers[layer]->active);
}

/* An overlay of ours lies upon the image whose snapshots are meant. */
static unsigned
snapshots_layer_of(const QimgImage *image)
{
    return MAX(image->first_layer, image->chain->image_layer);
}

static QimgImage *
open_snapshot(QimgImage *image, unsigned index, QimgGuestOffset *vm_state_out,
              GError **error)
{
    unsigned layer_index = snapshots_layer_of(image);
    QimgFormat *layer = image->chain->layers[layer_index];
    QimgImage *snapshot;

    if (index >= qimg_image_get_n_snapshots(image)) {
        qimg_set_error(error, QIMG_ERROR_USAGE, "there is no snapshot %u", index);
        return NULL;
    }
    if (!layer->driver->check_snapshot(layer, index, vm_state_out, error))
        return NULL;
    snapshot = image_new(image->chain, layer_index, &layer->snapshots[index].view);
    snapshot->is_snapshot = true;
    return snapshot;
}

QimgImage *
qimg_image_open_snapshot(QimgImage *image, unsigned index, GError **error)
{
    QimgGuestOffset vm_state;

    return open_snapshot(image, index, &vm_state, error);
}

QimgImage *
qimg_image_open_vmstate(QimgImage *image, unsigned index, GError **error)
{
    QimgGuestOffset vm_state;
    QimgImage *state = open_snapshot(image, index, &vm_state, error);
    uint64_t length_bytes;

    if (!state)
        return NULL;
    length_bytes = qimg_image_get_snapshot(image, index)->vm_state_bytes;
    if (length_bytes == 0) {
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND, "snapshot %u has no VM state", index);
        qimg_image_close(state);
        return NULL;
    }
    /* It lies behind the disk; where it is not allocated it is zeros, since the backing
     * file holds no VM state. Spec: qcow2 section 8.2. */
    state->base_bytes = vm_state.v;
    state->size_bytes = length_bytes;
    state->own_view.size_bytes = vm_state.v + length_bytes;
    state->has_backing = false;
    return state;
}

void
qimg_image_close(QimgImage *image)
{
    if (!image)
        return;
    chain_unref(image->chain);
    g_free(image);
}

uint64_t
qimg_image_get_size_bytes(const QimgImage *image)
{
    return image_size_bytes(image);
}

uint64_t
qimg_image_get_cluster_bytes(const QimgImage *image)
{
    return image->chain->layers[image->first_layer]->cluster_bytes;
}

unsigned
qimg_image_get_n_layers(const QimgImage *image)
{
    return image->chain->n_layers - image->first_layer;
}

const char *
qimg_image_get_layer_path(const QimgImage *image, unsigned depth)
{
    if (depth >= qimg_image_get_n_layers(image))
        return NULL;
    return image->chain->layers[image->first_layer + depth]->file->path;
}

void
qimg_image_get_stat(const QimgImage *image, struct stat *out)
{
    QimgChain *chain = image->chain;
    QimgFormat *top = chain->layers[0];
    struct stat file, data;

    *out = chain->status;
    if (!top->is_writable)
        return;
    qimg_storage_get_status(top->file, &file);
    out->st_blocks += file.st_blocks - top->file->status.st_blocks;
    if (chain->image_layer != 0)
        return;
    out->st_mtim = file.st_mtim;
    out->st_ctim = file.st_ctim;
    if (!top->data_file)
        return;
    qimg_storage_get_status(top->data_file, &data);
    out->st_blocks += data.st_blocks - top->data_file->status.st_blocks;
    if (data.st_mtim.tv_sec > file.st_mtim.tv_sec ||
        (data.st_mtim.tv_sec == file.st_mtim.tv_sec &&
         data.st_mtim.tv_nsec > file.st_mtim.tv_nsec))
        out->st_mtim = out->st_ctim = data.st_mtim;
}

uint64_t
qimg_image_get_free_bytes(const QimgImage *image)
{
    QimgFormat *layer = image->chain->layers[image->first_layer];

    return qimg_storage_get_free_bytes(qimg_format_data_storage(layer));
}

const char *const *
qimg_image_get_warnings(const QimgImage *image)
{
    return (const char *const *)image->chain->warnings->pdata;
}

unsigned
qimg_image_get_n_snapshots(const QimgImage *image)
{
    return image->is_snapshot
               ? 0
               : image->chain->layers[snapshots_layer_of(image)]->n_snapshots;
}

const QimgSnapshot *
qimg_image_get_snapshot(const QimgImage *image, unsigned index)
{
    if (index >= qimg_image_get_n_snapshots(image))
        return NULL;
    return &image->chain->layers[snapshots_layer_of(image)]->snapshots[index].facts;
}
