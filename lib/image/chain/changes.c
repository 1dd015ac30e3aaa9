/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of an open image that another program changes. Tables are cached and data are
 * read on request, so together they would belong to no version: after a change, every
 * read of the image fails until it is opened again. */
#define G_LOG_DOMAIN "qimg"

#include "image/chain/changes.h"
#include "image/chain/handle.h"

const QimgStorage *
chain_find_changed(const QimgChain *chain)
{
    for (unsigned i = 0; i < chain->n_layers; i++) {
        const QimgFormat *layer = chain->layers[i];

        if (qimg_storage_has_changed(layer->file))
            return layer->file;
        if (layer->data_file && qimg_storage_has_changed(layer->data_file))
            return layer->data_file;
    }
    return NULL;
}

/* Checks now. */
static bool
look_at_files(QimgChain *chain)
{
    const QimgStorage *found = chain_find_changed(chain), *none = NULL;

    if (found && atomic_compare_exchange_strong(&chain->changed, &none, found))
        g_warning("%s: was changed by another program while it was open; reads fail with "
                  "I/O errors until all users have closed it and it is opened again (-o "
                  "nolock does not look for changes)",
                  found->path);
    return found != NULL;
}

bool
chain_look_for_changes(QimgChain *chain)
{
    int64_t due_ms = atomic_load_explicit(&chain->next_look_ms, memory_order_relaxed);
    struct timespec now;
    int64_t now_ms;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    now_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    /* One of several concurrent callers does the check. */
    if (now_ms < due_ms || !atomic_compare_exchange_strong(&chain->next_look_ms, &due_ms,
                                                           now_ms + CHANGES_LOOK_MS))
        return atomic_load_explicit(&chain->changed, memory_order_relaxed) != NULL;
    return look_at_files(chain);
}

const char *
qimg_image_find_changed(QimgImage *image, gboolean look_now)
{
    QimgChain *chain = image->chain;
    const QimgStorage *changed;

    if (look_now && chain->is_watched && !atomic_load(&chain->changed))
        (void)look_at_files(chain);
    changed = atomic_load(&chain->changed);
    return changed ? changed->path : NULL;
}
