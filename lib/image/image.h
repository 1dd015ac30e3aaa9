/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private structures of the image layer: the chain that handles share, and the handle.
 *
 * I1  All layers below the top are immutable, and the top is where there is no gate. What
 *     was resolved for the lower ones once stays right (image/resolve.c).
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

typedef enum {
    DISCARD_UNMAP,
    DISCARD_ZERO,
    DISCARD_IGNORE,
} DiscardMode;

struct QimgOptions {
    char *format;           /* NULL: probe */
    QimgOpenPolicy *policy; /* owned */
    uint64_t l2_cache_bytes;
    uint64_t data_cache_bytes;
    unsigned n_threads;
    bool no_lock;
    bool inspect;
    bool is_writable; /* rw: the image itself takes writes */
    bool is_cow;      /* an overlay takes them */
    char *cow_path;   /* the overlay; NULL: one that vanishes */
    bool is_growable;
    DiscardMode discard;
};

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
    _Atomic uint64_t disk_bytes; /* atomic: size of the disk that layer 0 shows; changes
                                    while the gate is closed */
    bool is_growable;            /* const */
    DiscardMode discard;         /* const */
    uint64_t granule_bytes;      /* const: unit of the resolved runs; 0: not used */
    uint64_t data_cache_bytes;   /* const */
    GPtrArray *warnings;         /* const after open; NULL-terminated */
    struct stat status;          /* const after open */
    unsigned image_layer; /* const after open: 1 below an overlay of ours, else 0 */
    _Atomic uint64_t counters[N_COUNTERS]; /* atomic, relaxed */
    QimgRuleSet reported_rules;            /* damage logged already */
} QimgChain;

struct QimgImage {
    QimgChain *chain;     /* a reference */
    unsigned first_layer; /* const */
    /* const: of the first layer; the active one changes while the gate is closed */
    const QimgView *view;
    QimgView own_view; /* const: what @view points to, where it is not the active one */
    /* const: what the handle shows, unless is_disk; of a part, at most */
    uint64_t size_bytes;
    bool is_disk;     /* const: the disk that layer 0 shows, or a part of it */
    QimgImage *whole; /* const: of a part of that disk, which is what changes; else NULL.
                         Owned */
    uint64_t base_bytes; /* const: where that begins in the view */
    bool has_backing;    /* const: unallocated parts come from the next layer */
    bool is_snapshot;    /* const: lists no snapshots of its own */
    /* Of the snapshot that this handle keeps from being deleted (see QimgFormatSnapshot);
     * NULL: none */
    atomic_uint *n_snapshot_handles;
    /* Both atomic, relaxed: hints of where a sequential reader is (image/read-ahead.c) */
    _Atomic uint64_t next_sequential_offset;
    _Atomic uint64_t read_ahead_end_offset;
};

/* A run and the layer that it belongs to. */
typedef struct {
    QimgRun run;
    unsigned layer_index;
} ImageRun;

/* The size of what @image shows. Any thread. */
static inline uint64_t
image_size_bytes(const QimgImage *image)
{
    uint64_t disk_bytes, left;

    if (!image->is_disk)
        return image->size_bytes;
    disk_bytes = atomic_load_explicit(&image->chain->disk_bytes, memory_order_acquire);
    if (!image->whole)
        return disk_bytes;
    left = disk_bytes > image->base_bytes ? disk_bytes - image->base_bytes : 0;
    return left < image->size_bytes ? left : image->size_bytes;
}

/* What changes when @image, which is_disk, is changed at *@guest_offset: the whole disk,
 * and where in it. */
static inline QimgImage *
image_to_change(QimgImage *image, uint64_t *guest_offset)
{
    if (!image->whole)
        return image;
    *guest_offset += image->base_bytes; /* within the disk, as the caller has checked */
    return image->whole;
}

static inline void
chain_count(QimgChain *chain, ImageCounter counter, uint64_t n)
{
    atomic_fetch_add_explicit(&chain->counters[counter], n, memory_order_relaxed);
}

/* image/chain.c: opens @name, below @dir_fd if it is relative, which messages call @path,
 * and all that it is based on; unref with chain_unref. */
QimgChain *chain_open(int dir_fd, const char *name, const char *path,
                      const QimgOptions *options, GError **error);

/* image/chain.c: as chain_open, of @n_storages (1 to IMAGE_MAX_LAYERS) open storages from
 * the top down, which it owns from then on (also on failure). The names that they hold
 * are not followed, no data file is attached and no lock is taken: for images that are no
 * host files. A layer that needs a data file reads its data from its own storage. Only
 * the last layer may be raw. */
QimgChain *chain_open_storages(QimgStorage *const *storages, unsigned n_storages,
                               const QimgOptions *options, GError **error);

/* image/chain.c: opens @path alone, without what it is based on and with its damage, for
 * the check and repair functions of its driver; @for_repair for writing. Nothing but
 * layer 0 can be used. */
QimgChain *chain_open_for_check(const char *path, const QimgOptions *options,
                                bool for_repair, GError **error);

/* image/check.c: qimg_check of the layer @format, which was opened for that; @path is
 * how the result calls it. */
QimgCheckResult *image_check(QimgFormat *format, const char *path, QimgRepair mode,
                             QimgCheckProgress progress, void *progress_data,
                             GError **error);

/* image/chain.c: adds a warning about the file at @path, for qimg_image_get_warnings,
 * which stays one harmless line whatever names from an image hold. While the chain is
 * opened. */
void chain_warn(QimgChain *chain, const char *path, const char *text);

/* image/chain.c: makes a storage of @fd (owned), locked for reading or writing as the
 * options say. While the chain is opened. */
QimgStorage *chain_open_storage(QimgChain *chain, const QimgOptions *options, int fd,
                                const char *path, bool is_writable, GError **error);

QimgChain *chain_ref(QimgChain *chain);
void chain_unref(QimgChain *chain);

/* image/image.c: a handle on @view of layer @first_layer; takes a reference of @chain.
 * The view is copied unless it is the layer's active one. */
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

/* image/map.c: whether all that lies below the top layer reads as zeros at the range, as
 * far as the tables tell. Inside the gate. */
QimgErrno map_is_zero_below(QimgChain *chain, uint64_t guest_offset,
                            uint64_t length_bytes, bool *is_zero_out) QIMG_MUST_CHECK;

/* image/read.c: qimg_image_read for who is inside the gate, without any check. */
QimgErrno image_read_inside(QimgImage *image, uint64_t guest_offset, uint8_t *buffer,
                            size_t length_bytes) QIMG_MUST_CHECK;

/* image/read.c: as qimg_image_read for one of many threads that go through an image that
 * nobody changes: all is done in this thread, and inflated clusters are not kept. The
 * caller has checked the range, and that the layers' data can be read. */
QimgErrno image_read_bulk(QimgImage *image, uint64_t guest_offset, uint8_t *buffer,
                          size_t length_bytes) QIMG_MUST_CHECK;

/* image/write.c: writes @buffer for who is inside the gate or has closed it. */
QimgErrno image_write_inside(QimgImage *image, uint64_t guest_offset,
                             const uint8_t *buffer, uint64_t length_bytes)
    QIMG_MUST_CHECK;

/* image/write.c: allocates what is not allocated of the range without a change of
 * content;
 * @reserves: and makes room in the host's file. As image_write_inside. */
QimgErrno image_allocate_inside(QimgImage *image, uint64_t guest_offset,
                                uint64_t length_bytes, bool reserves) QIMG_MUST_CHECK;

/* image/write.c: counts a failure, and does what a change has left to be done once it is
 * over. Outside the gate. */
void image_after_change(QimgChain *chain, QimgErrno err);

/* image/zero.c: writes zeros as data to [@start, @end), unless the disk holds them
 * already. May pass the disk's end. As image_write_inside. */
QimgErrno image_write_zeros(QimgImage *image, uint64_t start, uint64_t end)
    QIMG_MUST_CHECK;

/* image/zero.c: lets [@start, @end) read as zeros, multiples of the top layer's zero unit
 * but for the disk's end. As image_write_inside. */
QimgErrno image_zero_units(QimgImage *image, uint64_t start, uint64_t end,
                           QimgZeroMode mode) QIMG_MUST_CHECK;

/* image/resize.c: grows the disk to at least @min_size_bytes. Outside the gate. */
QimgErrno image_grow(QimgImage *image, uint64_t min_size_bytes) QIMG_MUST_CHECK;

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

/* image/compressed.c: inflates the cluster to @bytes, which hold a whole cluster, past
 * its cache. */
QimgErrno compressed_read(const CompressedCluster *cluster, uint8_t *bytes)
    QIMG_MUST_CHECK;

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
