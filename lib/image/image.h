/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private structures of the image layer: the chain that handles share, and the handle.
 *
 * I1  All layers below the top are immutable; in this version the top is, too. What was
 *     resolved for them once stays right (image/resolve.c).
 * I2  Memory: the tables' cache and the clusters' caches are sized by options. Nothing
 *     else grows with what an image says, but for the snapshot list (limits of the
 * format) and names. */
#pragma once

#include <stdatomic.h>

#include "base/workers.h"
#include "format/driver.h"
#include "qimg.h"
#include "storage/open-policy.h"

#define IMAGE_MAX_LAYERS 200u

struct QimgOptions {
    char *format;           /* NULL: probe */
    QimgOpenPolicy *policy; /* owned */
    uint64_t l2_cache_bytes;
    uint64_t data_cache_bytes;
    unsigned n_threads;
    bool no_lock;
    bool inspect;
};

typedef enum {
    COUNTER_READS,
    COUNTER_BYTES,
    COUNTER_ZERO_BYTES,
    COUNTER_INFLATED_CLUSTERS,
    COUNTER_READ_AHEAD_CLUSTERS,
    COUNTER_RESOLVED_REGIONS,
    COUNTER_ERRORS,
    N_COUNTERS,
} ImageCounter;

typedef struct ReadAhead ReadAhead;
typedef struct HoleMap HoleMap;

/* The layers from the image itself (0) down to the last backing file. */
typedef struct {
    atomic_uint refs;                      /* atomic: handles */
    QimgFormat *layers[IMAGE_MAX_LAYERS];  /* const after open */
    unsigned n_layers;                     /* const after open */
    QimgPlace *places[IMAGE_MAX_LAYERS];   /* of the files; all NULL after open */
    TableCache *tables;                    /* const after open */
    SlotCache *clusters[IMAGE_MAX_LAYERS]; /* const; NULL where no layer compresses */
    QimgWorkers *workers;                  /* const after open */
    ReadAhead *read_ahead;     /* const after open; NULL where it is of no use */
    HoleMap *holes;            /* const after open: of the disk that layer 0 shows */
    uint64_t granule_bytes;    /* const: unit of the resolved runs; 0: not used */
    uint64_t data_cache_bytes; /* const */
    GPtrArray *warnings;       /* const after open; NULL-terminated */
    struct stat status;        /* const after open */
    _Atomic uint64_t counters[N_COUNTERS]; /* atomic, relaxed */
    _Atomic uint64_t reported_rules;       /* atomic, relaxed: damage logged already */
} QimgChain;

struct QimgImage {
    QimgChain *chain;     /* a reference */
    unsigned first_layer; /* const */
    QimgView view;        /* const: of the first layer */
    uint64_t size_bytes;  /* const: what the handle shows */
    uint64_t base_bytes;  /* const: where that begins in the view */
    bool has_backing;     /* const: unallocated parts come from the next layer */
    bool is_snapshot;     /* const: lists no snapshots of its own */
    /* Both atomic, relaxed: hints of where a sequential reader is (image/read-ahead.c) */
    _Atomic uint64_t next_sequential_offset;
    _Atomic uint64_t read_ahead_end_offset;
};

/* A run and the layer that it belongs to. */
typedef struct {
    QimgRun run;
    unsigned layer_index;
} ImageRun;

static inline void
chain_count(QimgChain *chain, ImageCounter counter, uint64_t n)
{
    atomic_fetch_add_explicit(&chain->counters[counter], n, memory_order_relaxed);
}

/* image/chain.c: opens @path and all that it is based on; unref with chain_unref. */
QimgChain *chain_open(const char *path, const QimgOptions *options, GError **error);

/* image/chain.c: as chain_open, of @n_storages (1 to IMAGE_MAX_LAYERS) open storages from
 * the top down, which it owns from then on (also on failure). The names that they hold
 * are not followed, no data file is attached and no lock is taken: for images that are no
 * host files. A layer that needs a data file reads its data from its own storage. Only
 * the last layer may be raw. */
QimgChain *chain_open_storages(QimgStorage *const *storages, unsigned n_storages,
                               const QimgOptions *options, GError **error);

QimgChain *chain_ref(QimgChain *chain);
void chain_unref(QimgChain *chain);

/* image/image.c: a handle on @view of layer @first_layer; takes a reference of @chain. */
QimgImage *image_new(QimgChain *chain, unsigned first_layer, const QimgView *view);

/* image/backing-name.c: what a stored backing name means. Fills in *@path_out (plain
 * name, free with g_free) and *@format_out (NULL where the name does not say). Errors:
 * REFUSED for what is no local file. */
bool backing_name_parse(const char *name, char **path_out, char **format_out,
                        GError **error);

/* image/map.c: the run of @image at @view_offset (in the view: with base_bytes added).
 * The run is cut to the layers' sizes; @length_bytes > 0 is how much can be used.
 * Threads: any; no lock; waits for I/O on misses. */
QimgErrno image_map_run(const QimgImage *image, uint64_t view_offset,
                        uint64_t length_bytes, ImageRun *out) QIMG_MUST_CHECK;

/* image/resolve.c: the run of the layers from @layer_index down, from the cache of
 * resolved runs. Only where the chain has a granule. */
QimgErrno resolve_run(QimgChain *chain, unsigned layer_index, uint64_t guest_offset,
                      uint64_t length_bytes, ImageRun *out) QIMG_MUST_CHECK;

/* Guest bytes that one slice of resolved runs covers. */
uint64_t resolve_region_bytes(const QimgChain *chain);

/* image/map.c: as resolve_run by asking each layer in turn. */
QimgErrno map_layers(QimgChain *chain, unsigned layer_index, uint64_t guest_offset,
                     uint64_t length_bytes, ImageRun *out) QIMG_MUST_CHECK;

/* image/compressed.c: the key of a compressed cluster in its layer's cache. */
uint64_t compressed_key(unsigned layer_index, QimgHostOffset host_offset);

/* A compressed cluster as a run names it. */
typedef struct {
    QimgChain *chain;
    unsigned layer_index;
    QimgHostOffset host_offset;
    uint32_t stream_bytes;
} CompressedCluster;

/* image/compressed.c: pins the inflated cluster, or says why it cannot be had. */
QimgErrno compressed_pin(const CompressedCluster *cluster, Slot **slot_out)
    QIMG_MUST_CHECK;

/* image/read-ahead.c: see there. */
ReadAhead *read_ahead_new(QimgChain *chain);
void read_ahead_free(ReadAhead *read_ahead);
void read_ahead_note(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
                     uint64_t cluster_bytes);

/* image/holes.c: which parts of a disk of @size_bytes are known to hold no data. All but
 * new and free from any thread. */
HoleMap *hole_map_new(uint64_t size_bytes);
void hole_map_free(HoleMap *map);
/* Notes that [@start, @end) holds no data; UINT64_MAX is the end of the disk. */
void hole_map_add(HoleMap *map, uint64_t start, uint64_t end);
/* The first offset from @offset on that may hold data; past the disk's end if none may.
 */
uint64_t hole_map_skip(const HoleMap *map, uint64_t offset);

/* image/report.c: counts damage, and logs it once for each rule and chain. */
void report_damage(QimgChain *chain, unsigned layer_index, QimgRule rule,
                   uint64_t guest_offset);
