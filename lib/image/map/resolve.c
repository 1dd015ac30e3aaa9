/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Resolved runs: the answer of the layers below the top for each granule (their smallest
 * unit of allocation), computed once per region and kept as a slice of the table cache,
 * so that a read at depth 200 costs the same as one at depth 1.
 *
 * An entry has two words. The first: bits 0–3 the kind, 4–11 the layer, 12–35 the bytes
 * of a compressed stream, 36–43 the rule of damage. The second: the host offset (DATA: of
 * the granule's first byte; COMPRESSED: of the stream).
 *
 * I1  The layers below the top never change while a chain is open, so an entry stays
 *     valid.
 *
 * I2  A granule without a single answer (a layer ends inside it) is MIXED: the layers are
 *     asked each time. */
#include "image/map/resolve.h"

#include "base/checked.h"

#define GRANULES_PER_REGION (TABLE_SLICE_WORDS / 2)

_Static_assert(QIMG_N_RULES <= 256, "an entry has 8 bits for the rule");

enum {
    ENTRY_UNRESOLVED = 0, /* only while a slice is being made */
    ENTRY_FIRST_KIND = 1, /* + QimgRunKind */
    ENTRY_MIXED = 15,
};

typedef struct {
    uint64_t word;
    uint64_t host_offset;
} Entry;

_Static_assert(sizeof(Entry) == 16, "an entry is two words");

static unsigned
entry_kind(Entry e)
{
    return (unsigned)(e.word & 15);
}

static Entry
entry_of_run(const QimgRun *run, unsigned layer_index, uint64_t distance_bytes)
{
    return (Entry){
        .word = (uint64_t)(ENTRY_FIRST_KIND + run->kind) | (uint64_t)layer_index << 4 |
                (uint64_t)run->stream_bytes << 12 | (uint64_t)run->rule << 36,
        .host_offset = run->kind == QIMG_RUN_DATA ? run->host_offset.v + distance_bytes
                                                  : run->host_offset.v,
    };
}

uint64_t
resolve_region_bytes(const QimgChain *chain)
{
    return chain->granule_bytes * GRANULES_PER_REGION;
}

/* A region while its slice is being filled. */
typedef struct {
    QimgChain *chain;
    unsigned first_layer;
    uint64_t guest_offset; /* of the region */
    Entry *entries;
} Region;

/* Stores @run for [@start, @start + @length_bytes) of the region, relative offsets. */
static void
paint(Region *region, uint64_t start, uint64_t length_bytes, const QimgRun *run,
      unsigned layer_index)
{
    uint64_t granule_bytes = region->chain->granule_bytes;
    uint64_t end = start + length_bytes;

    for (uint64_t i = start / granule_bytes; i * granule_bytes < end; i++) {
        uint64_t granule_start = i * granule_bytes;

        if (granule_start >= start && granule_start + granule_bytes <= end)
            region->entries[i] = entry_of_run(run, layer_index, granule_start - start);
        else
            region->entries[i] = (Entry){.word = ENTRY_MIXED};
    }
}

/* Stores one layer's answer for the granules [@first, @last), which are unresolved. */
static QimgErrno
paint_stretch(Region *region, unsigned layer_index, uint64_t first, uint64_t last)
{
    QimgFormat *layer = region->chain->layers[layer_index];
    uint64_t at = first * region->chain->granule_bytes;
    uint64_t end = last * region->chain->granule_bytes;

    while (at < end) {
        uint64_t guest_offset = region->guest_offset + at;
        QimgRun run = {.kind = QIMG_RUN_UNALLOCATED, .length_bytes = end - at};
        uint64_t length_bytes = end - at;
        QimgErrno err;

        if (guest_offset >= qimg_view_size_bytes(&layer->active)) {
            /* Zeros past the end of a layer: see layers_map_run. */
            paint(region, at, length_bytes, &run, layer_index - 1);
            return 0;
        }
        length_bytes = qimg_min_u64(length_bytes,
                                    qimg_view_size_bytes(&layer->active) - guest_offset);
        err = layer->driver->map(layer, &layer->active, qimg_guest(guest_offset),
                                 length_bytes, &run);
        if (err)
            return err;
        length_bytes = qimg_min_u64(length_bytes, run.length_bytes);
        /* Unallocated granules stay open for the next layer. The next iteration marks a
         * granule that the layer's end cuts as MIXED: it begins inside that granule. */
        if (run.kind != QIMG_RUN_UNALLOCATED)
            paint(region, at, length_bytes, &run, layer_index);
        at += length_bytes;
    }
    return 0;
}

/* Announces the tables that all layers need for the region, so that slow disks read them
 * beside each other and not one after the other. */
static void
announce_tables(const Region *region)
{
    QimgChain *chain = region->chain;
    static const TableKind levels[] = {TABLE_L1, TABLE_L2};

    for (size_t l = 0; l < G_N_ELEMENTS(levels); l++) {
        for (unsigned i = region->first_layer; i < chain->n_layers; i++) {
            QimgFormat *layer = chain->layers[i];

            if (region->guest_offset >= qimg_view_size_bytes(&layer->active))
                break;
            if (layer->driver->will_map)
                layer->driver->will_map(layer, &layer->active,
                                        qimg_guest(region->guest_offset), levels[l]);
        }
    }
}

/* SlotLoad: asks the layers from the top down, each only for granules still open. */
static QimgErrno
load_region(void *user, uint64_t key, void *bytes)
{
    Region *region = user;
    QimgChain *chain = region->chain;
    QimgRun nothing = {.kind = QIMG_RUN_UNALLOCATED};
    Entry *entries = bytes;

    (void)key;
    region->entries = entries;
    if (chain->n_layers - region->first_layer > 1)
        announce_tables(region);
    for (unsigned i = 0; i < GRANULES_PER_REGION; i++)
        entries[i] = (Entry){.word = ENTRY_UNRESOLVED};
    for (unsigned layer = region->first_layer; layer < chain->n_layers; layer++) {
        bool is_open = false;

        for (unsigned first = 0; first < GRANULES_PER_REGION;) {
            unsigned last = first;
            QimgErrno err;

            while (last < GRANULES_PER_REGION &&
                   entry_kind(entries[last]) == ENTRY_UNRESOLVED)
                last++;
            if (last == first) {
                first++;
                continue;
            }
            err = paint_stretch(region, layer, first, last);
            if (err)
                return err;
            is_open = true;
            first = last;
        }
        if (!is_open)
            break;
    }
    for (unsigned i = 0; i < GRANULES_PER_REGION; i++)
        if (entry_kind(entries[i]) == ENTRY_UNRESOLVED)
            entries[i] = entry_of_run(&nothing, chain->n_layers - 1, 0);
    chain_count(chain, COUNTER_RESOLVED_REGIONS, 1);
    return 0;
}

static bool
resolved_continues(Entry first, Entry next, uint64_t distance_bytes)
{
    if (first.word != next.word)
        return false;
    if (entry_kind(first) == ENTRY_FIRST_KIND + QIMG_RUN_DATA)
        return next.host_offset == first.host_offset + distance_bytes;
    return next.host_offset == first.host_offset;
}

QimgErrno
resolve_run(QimgChain *chain, unsigned layer_index, uint64_t guest_offset,
            uint64_t length_bytes, ImageRun *out)
{
    uint64_t region_bytes = resolve_region_bytes(chain);
    uint64_t region_index = guest_offset / region_bytes;
    uint64_t in_region = guest_offset % region_bytes;
    uint64_t index = in_region / chain->granule_bytes;
    uint64_t in_granule = in_region % chain->granule_bytes;
    uint64_t n_max = qimg_div_round_up(
        qimg_min_u64(length_bytes, region_bytes - in_region) + in_granule,
        chain->granule_bytes);
    Region region = {.chain = chain,
                     .first_layer = layer_index,
                     .guest_offset = guest_offset - in_region};
    uint64_t n = 1;
    const Entry *entries;
    Entry e;
    Slot *slot;
    QimgErrno err = slot_cache_pin(chain->tables,
                                   table_key(TABLE_RESOLVED, layer_index, region_index),
                                   load_region, &region, &slot);

    if (err)
        return err;
    entries = slot_bytes(slot);
    e = entries[index];
    while (n < n_max &&
           resolved_continues(e, entries[index + n], n * chain->granule_bytes))
        n++;
    slot_cache_unpin(chain->tables, slot);
    if (entry_kind(e) == ENTRY_MIXED)
        return layers_map_run(
            chain, layer_index, guest_offset,
            qimg_min_u64(length_bytes, chain->granule_bytes - in_granule), out);
    *out = (ImageRun){
        .layer_index = (unsigned)(e.word >> 4 & 0xff),
        .run =
            {
                .kind = (QimgRunKind)(entry_kind(e) - ENTRY_FIRST_KIND),
                .rule = (QimgRule)(e.word >> 36 & 0xff),
                .stream_bytes = (uint32_t)(e.word >> 12 & 0xffffff),
                .host_offset = qimg_host(e.host_offset),
                .length_bytes =
                    qimg_min_u64(length_bytes, n * chain->granule_bytes - in_granule),
            },
    };
    if (out->run.kind == QIMG_RUN_DATA) {
        out->run.host_offset.v += in_granule;
    } else if (out->run.kind == QIMG_RUN_COMPRESSED) {
        /* Consecutive clusters may refer to one stream: each is a run of its own. */
        uint64_t cluster_bytes = chain->layers[out->layer_index]->cluster_bytes;

        out->run.length_bytes = qimg_min_u64(
            out->run.length_bytes, cluster_bytes - (guest_offset & (cluster_bytes - 1)));
    }
    return 0;
}
