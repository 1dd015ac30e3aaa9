/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files of an open image, from the image itself down: the state that handles share.
 *
 * I1  All layers below the top are immutable, and so is the top if there is no gate:
 *     resolved runs of the lower layers stay valid (image/map/resolve.c).
 *
 * I2  Memory: options set the size of the cache of tables and of the caches of clusters.
 *     Only the snapshot list (limits of the format) and names grow with the image. */
#pragma once

#include <errno.h>
#include <stdatomic.h>

#include "base/workers.h"
#include "format/driver.h"
#include "image/chain/options.h"
#include "qimg.h"
#include "storage/open-policy.h"

#define IMAGE_MAX_LAYERS 200u

/* The data_error of a layer whose data file is not open, in a chain for inspection. */
#define CHAIN_NO_DATA_FILE (-ENOENT)

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
    SlotCache *clusters[IMAGE_MAX_LAYERS]; /* const; NULL if no layer compresses */
    QimgWorkers *workers;                  /* const after open */
    ReadAhead *read_ahead;                 /* const after open; NULL if it has no use */
    HoleMap *holes; /* const after open: of layer 0's disk; NULL if that may change */
    QimgGate
        *gate; /* const after open; NULL if read-only. Users of the layers are inside */
    /* Taken inside the gate to grow the disk, or to rely on its end. */
    QimgMutex size_lock; /* rank QIMG_RANK_SIZE */
    /* From the disk's end to here all is zeros, durably, and the tables reach this far;
     * not above the end: unknown. Set while the gate is closed, reset under size_lock. */
    uint64_t zeros_end_bytes;
    bool is_growable;          /* const */
    QimgKeeper *keeper;        /* const; NULL: none */
    DiscardMode discard;       /* const */
    uint64_t granule_bytes;    /* const: unit of the resolved runs; 0: not used */
    uint64_t data_cache_bytes; /* const */
    GPtrArray *warnings;       /* const after open; NULL-terminated */
    struct stat status;        /* const after open */
    /* const after open, of a chain opened for inspection: the last layer has a backing
     * file, which is not open */
    bool is_cut;
    unsigned image_layer; /* const after open: 1 below an own overlay, else 0 */
    bool is_watched;      /* const after open: other programs are not expected to write */
    _Atomic int64_t next_look_ms; /* atomic, relaxed: of the monotonic clock */
    /* Atomic: a file that another program has changed; NULL: none. Set once. */
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

/* Adds a warning about the file at @path, for qimg_image_get_warnings; escapes names from
 * an image, so that the warning stays one harmless line. Only while the chain is being
 * opened. */
void chain_warn(QimgChain *chain, const char *path, const char *text);

/* Makes the data of @storage, which is not yet in use, bypass the page cache if the
 * options say so; warns if that is impossible. Only while the chain is being opened. */
void chain_go_direct(QimgChain *chain, const QimgOptions *options, QimgStorage *storage);

/* Creates a storage for @fd (owned), locked for reading or writing as the options say.
 * Only while the chain is being opened. */
QimgStorage *chain_open_storage(QimgChain *chain, const QimgOptions *options, int fd,
                                const char *path, bool is_writable, GError **error);
