/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An estimate of where data lie, from a few samples of the tables. */
#include "base/checked.h"
#include "image/chain/handle.h"
#include "image/map/layers.h"
#include "image/map/runs.h"

#define N_SAMPLES    32u
#define SAMPLE_BYTES (4 * QIMG_MIB)
#define MAX_USECS    50000
#define MAX_RUNS     1024u /* in one sample: more are no long stretch */

/* Whether a run is data according to the tables. A file that is mostly holes is unknown:
 * asking for its holes takes too long. */
static bool
sample_is_data(const QimgImage *image, const ImageRun *r)
{
    const QimgFormat *layer = image->chain->layers[r->layer_index];
    const QimgStorage *storage = qimg_format_data_storage(layer);

    return r->run.kind == QIMG_RUN_COMPRESSED ||
           (r->run.kind == QIMG_RUN_DATA &&
            (layer->encryption || !qimg_storage_is_sparse(storage) ||
             storage->status.st_blocks >=
                 storage->status.st_size / QIMG_SECTOR_BYTES / 2));
}

static uint64_t
count_data_bytes(const QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
                 int64_t late_usecs)
{
    uint64_t done = 0, n_data_bytes = 0;

    for (unsigned i = 0; i < MAX_RUNS && done < length_bytes; i++) {
        ImageRun r;

        if (g_get_monotonic_time() > late_usecs ||
            image_map_run(image, image->base_bytes + guest_offset + done,
                          length_bytes - done, &r))
            break;
        if (sample_is_data(image, &r))
            n_data_bytes += r.run.length_bytes;
        done += r.run.length_bytes;
    }
    return n_data_bytes;
}

gboolean
qimg_image_has_long_extents(const QimgImage *image)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    uint64_t step_bytes = image_size_bytes(image) / N_SAMPLES;
    int64_t late_usecs = g_get_monotonic_time() + MAX_USECS;
    unsigned n_full = 0, n_with_data = 0;

    for (unsigned i = 0; i < N_SAMPLES; i++) {
        uint64_t guest_offset = step_bytes * i;
        uint64_t length_bytes =
            qimg_min_u64(SAMPLE_BYTES, image_size_bytes(image) - guest_offset);
        uint64_t n_data_bytes =
            count_data_bytes(image, guest_offset, length_bytes, late_usecs);

        n_with_data += n_data_bytes > 0;
        n_full += n_data_bytes > length_bytes / 4 * 3;
    }
    return n_full * 2 > n_with_data;
}
