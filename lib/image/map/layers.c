/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of a chain, by asking its layers in turn. */
#include "image/map/layers.h"

#include "base/checked.h"

QimgErrno
layers_map_run(QimgChain *chain, unsigned layer_index, uint64_t guest_offset,
               uint64_t length_bytes, ImageRun *out)
{
    for (unsigned i = layer_index; i < chain->n_layers; i++) {
        QimgFormat *layer = chain->layers[i];
        QimgErrno err;

        if (guest_offset >= qimg_view_size_bytes(&layer->active)) {
            /* Past a layer's end are zeros; they hide the layers below. */
            *out = (ImageRun){
                .layer_index = i > 0 ? i - 1 : 0,
                .run = {.kind = QIMG_RUN_UNALLOCATED, .length_bytes = length_bytes}};
            return 0;
        }
        length_bytes = qimg_min_u64(length_bytes,
                                    qimg_view_size_bytes(&layer->active) - guest_offset);
        err = layer->driver->map(layer, &layer->active, qimg_guest(guest_offset),
                                 length_bytes, &out->run);
        if (err)
            return err;
        length_bytes = qimg_min_u64(length_bytes, out->run.length_bytes);
        out->run.length_bytes = length_bytes;
        out->layer_index = i;
        if (out->run.kind != QIMG_RUN_UNALLOCATED)
            return 0;
    }
    return 0;
}
