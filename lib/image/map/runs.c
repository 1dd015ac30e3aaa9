/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The deciding run among all layers of a chain. */
#include "image/map/runs.h"

#include "base/checked.h"
#include "image/map/resolve.h"

/* From this length on, a look-ahead asks the tables first. */
#define LONG_LOOK_BYTES (32 * QIMG_MIB)

/* The run of the layers from @layer_index (not the first) down. */
static QimgErrno
map_lower(QimgChain *chain, unsigned layer_index, uint64_t guest_offset,
          uint64_t length_bytes, ImageRun *out)
{
    if (chain->granule_bytes == 0 || layer_index + 1 >= chain->n_layers)
        return layers_map_run(chain, layer_index, guest_offset, length_bytes, out);
    if (length_bytes > 4 * resolve_region_bytes(chain) &&
        length_bytes > LONG_LOOK_BYTES) {
        /* A long look-ahead: the tables skip empty stretches faster. */
        QimgErrno err =
            layers_map_run(chain, layer_index, guest_offset, length_bytes, out);

        if (err || out->run.length_bytes >= resolve_region_bytes(chain))
            return err;
    }
    return resolve_run(chain, layer_index, guest_offset, length_bytes, out);
}

QimgErrno
image_map_run(const QimgImage *image, uint64_t view_offset, uint64_t length_bytes,
              ImageRun *out)
{
    QimgFormat *top = image->chain->layers[image->first_layer];
    QimgErrno err = top->driver->map(top, image->view, qimg_guest(view_offset),
                                     length_bytes, &out->run);

    if (err)
        return err;
    out->layer_index = image->first_layer;
    out->run.length_bytes = qimg_min_u64(out->run.length_bytes, length_bytes);
    if (out->run.kind != QIMG_RUN_UNALLOCATED || !image->has_backing)
        return 0;
    return map_lower(image->chain, image->first_layer + 1, view_offset,
                     out->run.length_bytes, out);
}

QimgErrno
image_is_zero_below(QimgChain *chain, uint64_t guest_offset, uint64_t length_bytes,
                    bool *is_zero_out)
{
    uint64_t end = guest_offset + length_bytes;

    *is_zero_out = false;
    while (chain->n_layers > 1 && guest_offset < end) {
        ImageRun r;
        QimgErrno err = map_lower(chain, 1, guest_offset, end - guest_offset, &r);

        if (err)
            return err;
        if (r.run.kind != QIMG_RUN_UNALLOCATED && r.run.kind != QIMG_RUN_ZERO)
            return 0;
        guest_offset += r.run.length_bytes;
    }
    *is_zero_out = true;
    return 0;
}
