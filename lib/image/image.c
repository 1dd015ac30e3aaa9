/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Handles on the image itself and on its layers, and their properties. */
#include "image/image.h"
#include "image/open/chain-open.h"

#include <fcntl.h>

#include "base/checked.h"
#include "base/errors.h"
#include "crypt/libcrypto.h"
#include "format/drivers.h"
#include "image/open/choose-driver.h"
#include "storage/file.h"

const char *
qimg_version(void)
{
    return G_STRINGIFY(QIMG_VERSION_MAJOR) "." G_STRINGIFY(
        QIMG_VERSION_MINOR) "." G_STRINGIFY(QIMG_VERSION_MICRO);
}

gboolean
qimg_load_libraries(GError **error)
{
    return libcrypto_load(error);
}

QimgImage *
image_new(QimgChain *chain, unsigned first_layer, const QimgView *view)
{
    QimgImage *image = g_new0(QimgImage, 1);

    image->chain = chain_ref(chain);
    image->first_layer = first_layer;
    image->view = view;
    if (view != &chain->layers[first_layer]->active) {
        image->own_view = *view;
        image->view = &image->own_view;
    }
    image->is_disk = first_layer == 0 && image->view == view;
    image->size_bytes = qimg_view_size_bytes(view);
    image->has_backing = first_layer + 1 < chain->n_layers;
    return image;
}

QimgImage *
qimg_image_open(const char *path, const QimgOptions *options, GError **error)
{
    return qimg_image_open_at(AT_FDCWD, path, path, options, error);
}

/* The first handle on @chain (taken over; may be NULL). */
static QimgImage *
first_handle(QimgChain *chain)
{
    QimgImage *image;

    if (!chain)
        return NULL;
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return image;
}

QimgImage *
qimg_image_open_at(int dir_fd, const char *name, const char *path,
                   const QimgOptions *options, GError **error)
{
    g_autoptr(QimgOptions) defaults = NULL;

    if (!options)
        options = defaults = qimg_options_new();
    return first_handle(chain_open(dir_fd, name, path, options, error));
}

QimgImage *
qimg_image_open_fd(int fd, const char *path, const QimgOptions *options, GError **error)
{
    g_autoptr(QimgOptions) defaults = NULL;

    if (!options)
        options = defaults = qimg_options_new();
    return first_handle(chain_open_given(fd, path, options, error));
}

QimgImage *
qimg_image_reopen(QimgImage *image, const QimgOptions *options, GError **error)
{
    return first_handle(chain_reopen(image->chain, options, error));
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

QimgImage *
qimg_image_open_part(QimgImage *image, uint64_t start_bytes, uint64_t length_bytes,
                     GError **error)
{
    QimgImage *part;

    if (!qimg_range_fits(start_bytes, length_bytes, image_size_bytes(image))) {
        qimg_set_error(error, QIMG_ERROR_USAGE,
                       "the part would leave the disk of %" G_GUINT64_FORMAT " bytes",
                       image_size_bytes(image));
        return NULL;
    }
    part = image_new(image->chain, image->first_layer, image->view);
    part->is_disk = image->is_disk;
    part->is_snapshot = image->is_snapshot;
    part->has_backing = image->has_backing;
    part->base_bytes = image->base_bytes + start_bytes;
    part->size_bytes = length_bytes;
    if (image->n_snapshot_handles) {
        part->n_snapshot_handles = g_atomic_rc_box_acquire(image->n_snapshot_handles);
        atomic_fetch_add(part->n_snapshot_handles, 1);
    }
    if (part->is_disk)
        part->whole = image_new(image->chain, 0, image->view);
    return part;
}

void
qimg_image_close(QimgImage *image)
{
    if (!image)
        return;
    qimg_image_close(image->whole);
    if (image->n_snapshot_handles) {
        atomic_fetch_sub(image->n_snapshot_handles, 1);
        g_atomic_rc_box_release(image->n_snapshot_handles);
    }
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

uint64_t
qimg_image_get_start_bytes(const QimgImage *image)
{
    return image->base_bytes;
}

gboolean
qimg_image_is_constant(const QimgImage *image)
{
    return image->chain->gate == NULL;
}

unsigned
qimg_image_get_n_layers(const QimgImage *image)
{
    return image->chain->n_layers - image->first_layer;
}

/* Layer @depth, counted from the handle's first; NULL beyond the last. */
static const QimgFormat *
layer_at(const QimgImage *image, unsigned depth)
{
    return depth < qimg_image_get_n_layers(image)
               ? image->chain->layers[image->first_layer + depth]
               : NULL;
}

const char *
qimg_image_get_layer_path(const QimgImage *image, unsigned depth)
{
    const QimgFormat *layer = layer_at(image, depth);

    return layer ? layer->file->path : NULL;
}

const char *
qimg_image_get_layer_format(const QimgImage *image, unsigned depth)
{
    const QimgFormat *layer = layer_at(image, depth);

    return layer ? layer->driver->name : NULL;
}

const char *
qimg_image_get_layer_backing_name(const QimgImage *image, unsigned depth)
{
    const QimgFormat *layer = layer_at(image, depth);

    return layer ? layer->backing_name : NULL;
}

uint64_t
qimg_image_get_layer_cluster_bytes(const QimgImage *image, unsigned depth)
{
    const QimgFormat *layer = layer_at(image, depth);

    return layer ? layer->cluster_bytes : 0;
}

int
qimg_image_get_layer_error(const QimgImage *image, unsigned depth)
{
    const QimgFormat *layer = layer_at(image, depth);

    return layer ? layer->data_error : 0;
}

unsigned
qimg_image_get_layer_flags(const QimgImage *image, unsigned depth)
{
    const QimgFormat *layer = layer_at(image, depth);

    if (!layer)
        return 0;
    return (layer->encryption ? QIMG_LAYER_ENCRYPTED : 0) |
           (atomic_load_explicit(&layer->is_dirty, memory_order_relaxed)
                ? QIMG_LAYER_DIRTY
                : 0) |
           (layer->is_corrupt ? QIMG_LAYER_CORRUPT : 0) |
           (layer->needs_data_file ? QIMG_LAYER_HAS_DATA_FILE : 0);
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

/* Adds one number to a hash (FNV-1a, by words). */
static uint64_t
hash_number(uint64_t hash, uint64_t number)
{
    return (hash ^ number) * UINT64_C(0x100000001b3);
}

static uint64_t
hash_status(uint64_t hash, const struct stat *status)
{
    hash = hash_number(hash, status->st_dev);
    hash = hash_number(hash, status->st_ino);
    hash = hash_number(hash, (uint64_t)status->st_size);
    hash = hash_number(hash, (uint64_t)status->st_mtim.tv_sec);
    hash = hash_number(hash, (uint64_t)status->st_mtim.tv_nsec);
    hash = hash_number(hash, (uint64_t)status->st_ctim.tv_sec);
    return hash_number(hash, (uint64_t)status->st_ctim.tv_nsec);
}

uint64_t
qimg_image_get_stamp(const QimgImage *image)
{
    const QimgChain *chain = image->chain;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (unsigned i = chain->image_layer; i < chain->n_layers; i++) {
        hash = hash_status(hash, &chain->layers[i]->file->status);
        if (chain->layers[i]->data_file)
            hash = hash_status(hash, &chain->layers[i]->data_file->status);
    }
    return hash;
}

const char *
qimg_probe(const void *bytes, size_t n_bytes)
{
    const QimgDriver *driver = qimg_driver_probe(bytes, n_bytes);

    return driver ? driver->name : NULL;
}

char *
qimg_probe_foreign(int fd, gboolean archives_too)
{
    int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    QimgStorage *file =
        own_fd < 0 ? NULL : qimg_file_storage_new(own_fd, "", false, NULL);
    const QimgForeign *foreign = NULL;
    char *text = NULL;

    if (file && qimg_foreign_probe(file, &foreign) == 0 && foreign &&
        (archives_too || foreign->is_disk))
        text = choose_driver_refusal(foreign, NULL);
    qimg_storage_close(file);
    return text;
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
