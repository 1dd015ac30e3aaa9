/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inflated clusters: found in their cache, or read and inflated once for all readers. */
#include "image/read/compressed.h"

uint64_t
compressed_key(unsigned layer_index, QimgHostOffset host_offset)
{
    /* Host offsets of streams lie below 2^56, layers below 200. */
    return (uint64_t)(layer_index + 1) << 56 | host_offset.v;
}

QimgErrno
compressed_read(const CompressedCluster *cluster, uint8_t *bytes)
{
    QimgFormat *layer = cluster->chain->layers[cluster->layer_index];

    chain_count(cluster->chain, COUNTER_INFLATED_CLUSTERS, 1);
    return layer->driver->read_compressed(layer, cluster->host_offset,
                                          cluster->stream_bytes, bytes);
}

/* SlotLoad. */
static QimgErrno
load_cluster(void *user, uint64_t key, void *bytes)
{
    (void)key;
    return compressed_read(user, bytes);
}

QimgErrno
compressed_pin(const CompressedCluster *cluster, Slot **slot_out)
{
    return slot_cache_pin(cluster->chain->clusters[cluster->layer_index],
                          compressed_key(cluster->layer_index, cluster->host_offset),
                          load_cluster, (void *)cluster, slot_out);
}
