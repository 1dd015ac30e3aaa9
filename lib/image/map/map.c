/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The chain's runs merged into maximal extents, for users and SEEK_DATA, by a walk that
 * is bounded in time and memory. */
#include <errno.h>
#include <time.h>

#include "base/checked.h"
#include "base/struct-size.h"
#include "image/chain/changes.h"
#include "image/map/holes.h"
#include "image/map/runs.h"

/* First look-ahead of a walk; it grows while nothing is found, so that the work is in
 * proportion to the distance. */
#define FIRST_CHUNK_BYTES (32 * QIMG_MIB)
#define MAX_WALK_NS       INT64_C(1000000000)
/* Host file extents that one step examines. */
#define MAX_HOST_EXTENTS 64u

/* ---- walks ----------------------------------------------------------------------------
 */

typedef struct {
    const QimgImage *image;
    uint64_t guest_offset; /* where the next step begins */
    uint64_t end_offset;   /* nothing behind it is of interest */
    uint64_t chunk_bytes;
    struct timespec begin;
} Walk;

/* @length_bytes may exceed the disk. */
static void
walk_begin(Walk *walk, const QimgImage *image, uint64_t guest_offset,
           uint64_t length_bytes)
{
    *walk = (Walk){
        .image = image, .guest_offset = guest_offset, .chunk_bytes = FIRST_CHUNK_BYTES};
    if (!qimg_add_u64(guest_offset, length_bytes, &walk->end_offset))
        walk->end_offset = UINT64_MAX;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &walk->begin);
}

/* Inside the gate the disk only grows. */
static uint64_t
walk_end_offset(const Walk *walk)
{
    return qimg_min_u64(walk->end_offset, image_size_bytes(walk->image));
}

/* Whether the walk has neither reached its end nor its time limit. */
static bool
walk_goes_on(const Walk *walk)
{
    struct timespec now;

    if (walk->guest_offset >= walk_end_offset(walk))
        return false;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (now.tv_sec - walk->begin.tv_sec) * INT64_C(1000000000) +
               (now.tv_nsec - walk->begin.tv_nsec) <=
           MAX_WALK_NS;
}

/* Whole clusters in a hole of a sparse host file are zeros, known without a read: cuts
 * the DATA run at @r where that changes. Holes inside a cluster do not count. */
static QimgErrno
cut_at_host_holes(QimgChain *chain, ImageRun *r)
{
    const QimgFormat *layer = chain->layers[r->layer_index];
    QimgStorage *storage = qimg_format_data_storage(layer);
    uint64_t unit_bytes =
        layer->may_compress || layer->data_file ? layer->cluster_bytes : 1;
    uint64_t start = r->run.host_offset.v;
    uint64_t end = start + r->run.length_bytes;
    /* From the cluster's start, so that the answer does not depend on the caller's
     * offset. */
    uint64_t at = qimg_align_down(start, unit_bytes);
    bool is_first = true; /* else [start, at) is data */

    for (unsigned i = 0; i < MAX_HOST_EXTENTS && at < end; i++, is_first = false) {
        uint64_t extent_end;
        bool is_data;
        QimgErrno err =
            qimg_storage_find_extent(storage, qimg_host(at), &is_data, &extent_end);

        if (err)
            return err;
        if (!is_data && qimg_align_down(extent_end, unit_bytes) > at) {
            if (is_first) {
                r->run.kind = QIMG_RUN_ZERO;
                at = qimg_align_down(extent_end, unit_bytes);
            }
            break;
        }
        if (!qimg_align_up(qimg_max_u64(extent_end, at + 1), unit_bytes, &at))
            at = end;
    }
    r->run.length_bytes = qimg_min_u64(at, end) - start;
    return 0;
}

static bool
is_hole(QimgRunKind kind)
{
    return kind == QIMG_RUN_UNALLOCATED || kind == QIMG_RUN_ZERO;
}

static QimgErrno
walk_step(Walk *walk, ImageRun *out)
{
    const QimgImage *image = walk->image;
    uint64_t left = walk_end_offset(walk) - walk->guest_offset;
    uint64_t length_bytes = qimg_min_u64(left, walk->chunk_bytes);
    const QimgFormat *layer;
    QimgErrno err =
        image_map_run(image, image->base_bytes + walk->guest_offset, length_bytes, out);

    if (err)
        return err;
    if (out->run.length_bytes < length_bytes)
        walk->chunk_bytes = FIRST_CHUNK_BYTES;
    else if (!image->has_backing) /* else the layer looks no farther than its own run */
        walk->chunk_bytes = UINT64_MAX;
    else if (walk->chunk_bytes < UINT64_MAX / 2)
        walk->chunk_bytes *= 2;
    layer = image->chain->layers[out->layer_index];
    /* Of an encrypted layer, also a hole is data: noise. */
    if (out->run.kind == QIMG_RUN_DATA && !layer->encryption &&
        layer->data_error != CHAIN_NO_DATA_FILE &&
        qimg_storage_is_sparse(qimg_format_data_storage(layer))) {
        err = cut_at_host_holes(image->chain, out);
        if (err)
            return err;
    }
    walk->guest_offset += out->run.length_bytes;
    return 0;
}

static bool
is_same_extent(const ImageRun *run, const ImageRun *next)
{
    if (next->run.kind != run->run.kind || next->layer_index != run->layer_index)
        return false;
    switch (run->run.kind) {
    case QIMG_RUN_DATA:
        return next->run.host_offset.v == run->run.host_offset.v + run->run.length_bytes;
    case QIMG_RUN_DAMAGED:
        return next->run.rule == run->run.rule;
    default:
        return true;
    }
}

/* Why the bytes of @r cannot be had, in a chain of which not all is open; NULL: they can.
 */
static const char *
find_lost(const QimgImage *image, const ImageRun *r)
{
    const QimgChain *chain = image->chain;
    const QimgFormat *layer = chain->layers[r->layer_index];

    if (r->run.kind == QIMG_RUN_UNALLOCATED && chain->is_cut &&
        r->layer_index == chain->n_layers - 1)
        return "backing file: is not open";
    if ((r->run.kind == QIMG_RUN_DATA || r->run.kind == QIMG_RUN_COMPRESSED) &&
        layer->data_error == CHAIN_NO_DATA_FILE)
        return "data file: is not open";
    return NULL;
}

static void
extent_of(const QimgImage *image, const ImageRun *r, uint64_t guest_offset,
          QimgExtent *out)
{
    static const QimgExtentKind kinds[] = {
        [QIMG_RUN_UNALLOCATED] = QIMG_EXTENT_UNALLOCATED,
        [QIMG_RUN_ZERO] = QIMG_EXTENT_ZERO,
        [QIMG_RUN_DATA] = QIMG_EXTENT_DATA,
        [QIMG_RUN_COMPRESSED] = QIMG_EXTENT_COMPRESSED,
        [QIMG_RUN_DAMAGED] = QIMG_EXTENT_DAMAGED,
    };

    *out = (QimgExtent){
        .struct_bytes = sizeof *out,
        .guest_offset = guest_offset,
        .length_bytes = r->run.length_bytes,
        .kind = kinds[r->run.kind],
        .depth = r->layer_index - image->first_layer,
        .present = r->run.kind != QIMG_RUN_UNALLOCATED,
    };
    out->reason = find_lost(image, r);
    if (out->reason) {
        out->kind = QIMG_EXTENT_DAMAGED;
        out->present = true;
    } else if (r->run.kind == QIMG_RUN_DATA &&
               !image->chain->layers[r->layer_index]->encryption) {
        out->host_offset = r->run.host_offset.v;
        out->host_path =
            qimg_format_data_storage(image->chain->layers[r->layer_index])->path;
    } else if (r->run.kind == QIMG_RUN_DAMAGED) {
        out->reason = qimg_rule_text(r->run.rule);
    }
}

int
qimg_image_map(QimgImage *image, uint64_t guest_offset, QimgExtent *out)
{
    return qimg_image_map_range(image, guest_offset, UINT64_MAX, out);
}

int
qimg_image_map_range(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
                     QimgExtent *out)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    ImageRun r, next;
    QimgExtent extent;
    QimgErrno err;
    Walk walk;

    if (guest_offset >= image_size_bytes(image) || length_bytes == 0)
        return -EINVAL;
    walk_begin(&walk, image, guest_offset, length_bytes);
    err = walk_step(&walk, &r);
    if (err)
        return err;
    while (walk_goes_on(&walk)) {
        if (walk_step(&walk, &next) || !is_same_extent(&r, &next))
            break;
        r.run.length_bytes += next.run.length_bytes;
    }
    if (chain_is_stale(image->chain))
        return -EIO;
    extent_of(image, &r, guest_offset, &extent);
    return qimg_struct_give(out, &extent, sizeof extent) ? 0 : -EINVAL;
}

/* The first offset, from @guest_offset on, that holds data, or where the walk ended. */
static QimgErrno
walk_find_data(const QimgImage *image, uint64_t guest_offset, uint64_t *offset_out)
{
    bool shows_disk = image->first_layer == 0 && !image->is_snapshot;
    HoleMap *holes = shows_disk ? image->chain->holes : NULL;
    uint64_t base = image->base_bytes; /* holes are recorded for the whole disk */
    uint64_t end_of_holes = image->whole ? base + image_size_bytes(image) : UINT64_MAX;
    bool is_found = false;
    Walk walk;

    *offset_out = guest_offset;
    walk_begin(&walk, image, guest_offset, UINT64_MAX);
    while (!is_found && walk_goes_on(&walk)) {
        uint64_t known =
            holes ? hole_map_skip(holes, base + walk.guest_offset) - base : 0;
        QimgErrno err;
        ImageRun r;

        walk.guest_offset = qimg_max_u64(walk.guest_offset, known);
        *offset_out = walk.guest_offset;
        if (walk.guest_offset >= image_size_bytes(image))
            break;
        err = walk_step(&walk, &r);
        if (err)
            return err;
        is_found = !is_hole(r.run.kind);
        if (!is_found)
            *offset_out = walk.guest_offset;
    }
    if (holes)
        hole_map_add(holes, base + guest_offset,
                     *offset_out < image_size_bytes(image) ? base + *offset_out
                                                           : end_of_holes);
    return *offset_out < image_size_bytes(image) ? 0 : -ENXIO;
}

static QimgErrno
find_hole(const QimgImage *image, uint64_t guest_offset, uint64_t *offset_out)
{
    Walk walk;

    walk_begin(&walk, image, guest_offset, UINT64_MAX);
    while (walk_goes_on(&walk)) {
        uint64_t start = walk.guest_offset;
        ImageRun r;
        QimgErrno err = walk_step(&walk, &r);

        if (err)
            return err;
        if (is_hole(r.run.kind)) {
            *offset_out = start;
            return 0;
        }
    }
    *offset_out = image_size_bytes(image);
    return 0;
}

int
qimg_image_seek(QimgImage *image, uint64_t guest_offset, gboolean hole,
                uint64_t *offset_out)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    QimgErrno err;

    if (guest_offset >= image_size_bytes(image))
        return -ENXIO;
    err = hole ? find_hole(image, guest_offset, offset_out)
               : walk_find_data(image, guest_offset, offset_out);
    return chain_is_stale(image->chain) ? -EIO : err;
}
