/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files of an open image, from the image itself down: what the handles share.
 *
 * I1  All layers below the top are immutable, and so is the top where there is no gate:
 *     what was resolved for the lower ones once stays right (image/map/resolve.c).
 * I2  Memory: the cache of tables and the caches of clusters are sized by options.
 * Nothing else grows with what an image says, but for the snapshot list (limits of the
 * format) and names. */
#pragma once

#include <stdatomic.h>

#include "base/workers.h"
#include "format/driver.h"
#include "image/chain/options.h"
#include "qimg.h"
#include "storage/open-policy.h"

#define IMAGE_MAX_LAYERS 200u

typedef enum {
    COUNTER_READS,
    COUNTER_BYTES,
    COUNTER_WRITES,
    COUNTER_BYTES_WRITTEN,
    COUNTER_ALLOCATING_WRITES,
    COUNTER_COPIED_BYTES,
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
    ReadAhead *read_ahead; /* const after open; NULL where it is of no use */
    HoleMap *holes;        /* const after open: of the disk that layer 0 shows; NULL:
                              it may change */
    QimgGate *gate;        /* const after open; NULL: nothing is ever written. Who
                              uses the layers is inside */
    /* Taken inside the gate by who lets the disk grow there, or relies on its end. */
    QimgMutex size_lock; /* rank QIMG_RANK_SIZE */
    /* From the disk's end to here all is zeros, durably, and the tables reach so far; not
     * above the end: nothing is known. Set while the gate is closed, forgotten under
     * size_lock. */
    uint64_t zeros_end_bytes;
    bool is_growable;          /* const */
    QimgKeeper *keeper;        /* const; NULL: none */
    DiscardMode discard;       /* const */
    uint64_t granule_bytes;    /* const: unit of the resolved runs; 0: not used */
    uint64_t data_cache_bytes; /* const */
    GPtrArray *warnings;       /* const after open; NULL-terminated */
    struct stat status;        /* const after open */
    unsigned image_layer;      /* const after open: 1 below an overlay of ours, else 0 */
    bool is_watched;           /* const after open: others are not expected to write */
    _Atomic int64_t next_look_ms; /* atomic, relaxed: of the monotonic clock */
    /* Atomic: the file that another program has changed; NULL: none. Set once. */
    const QimgStorage *_Atomic changed;
    _Atomic uint64_t counters[N_COUNTERS]; /* atomic, relaxed */
    _Atomic uint64_t n_changes;            /* atomic: see qimg_image_count_changes */
    QimgRuleSet reported_rules;            /* damage logged already */
} QimgChain;

static inline void
chain_count(QimgChain *chain, ImageCounter counter, uint64_t n)
{
    atomic_fetch_add_explicit(&chain->counters[counter], n, memory_order_relaxed);
}

/* Adds a warning about the file at @path, for qimg_image_get_warnings,
 * which stays one harmless line whatever names from an image hold. While the chain is
 * opened. */
void chain_warn(QimgChain *chain, const char *path, const char *text);

/* Lets the data of @storage, which nobody has used yet, pass by the page cache where the
 * options say so; warns where that cannot be. While the chain is opened. */
void chain_go_direct(QimgChain *chain, const QimgOptions *options, QimgStorage *storage);

/* Makes a storage of @fd (owned), locked for reading or writing as the
 * options say. While the chain is opened. */
QimgStorage *chain_open_storage(QimgChain *chain, const QimgOptions *options, int fd,
                                const char *path, bool is_writable, GError **error);
