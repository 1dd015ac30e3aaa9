/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading along the runs, each as long as it is, in the calling thread. The compressed
 * clusters of a request are collected and, if several must be inflated, spread over the
 * workers. */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/struct-size.h"
#include "base/trace.h"
#include "base/wait-hook.h"
#include "image/chain/changes.h"
#include "image/chain/report.h"
#include "image/map/runs.h"
#include "image/read/compressed.h"
#include "image/read/read-ahead.h"
#include "image/read/read-encrypted.h"
#include "image/read/read.h"

#define MAX_PIECES 64u
/* Below this, waking other threads costs more than it gains. */
#define MIN_PARALLEL_BYTES (32 * QIMG_KIB)

/* A part of one inflated cluster and its destination. */
typedef struct {
    CompressedCluster cluster;
    uint64_t guest_offset; /* for reports */
    uint64_t in_cluster_bytes;
    uint64_t length_bytes;
    uint8_t *target;
    QimgErrno result;
} Piece;

typedef struct {
    QimgImage *image;
    bool is_bulk;             /* one of many threads, which read their data only once */
    bool is_sequential;       /* continues the handle's last read */
    QimgWaitRefusal *refusal; /* NULL: waits for data */
    Piece pieces[MAX_PIECES];
    unsigned n_pieces;
} Request;

static SlotCache *
cache_of(const Piece *piece)
{
    return piece->cluster.chain->clusters[piece->cluster.layer_index];
}

/* Copies @piece out of its @slot, and unpins it. A sequential reader at the end of a
 * cluster does not return to it. */
static void
take_piece(const Request *request, const Piece *piece, Slot *slot)
{
    const QimgFormat *layer = piece->cluster.chain->layers[piece->cluster.layer_index];

    memcpy(piece->target, (const uint8_t *)slot_bytes(slot) + piece->in_cluster_bytes,
           piece->length_bytes);
    if (request->is_sequential &&
        piece->in_cluster_bytes + piece->length_bytes == layer->cluster_bytes)
        slot_cache_unpin_spent(cache_of(piece), slot);
    else
        slot_cache_unpin(cache_of(piece), slot);
}

/* Whether @piece is a whole cluster that no reader will need again. */
static bool
is_needed_once(const Request *request, const Piece *piece)
{
    const QimgFormat *layer = piece->cluster.chain->layers[piece->cluster.layer_index];

    return request->is_bulk && piece->length_bytes == layer->cluster_bytes;
}

/* One item of qimg_workers_parallel. */
static void
inflate_piece(void *user, unsigned item_index)
{
    Request *request = user;
    Piece *piece = &request->pieces[item_index];
    Slot *slot;

    if (is_needed_once(request, piece)) {
        piece->result = compressed_read(&piece->cluster, piece->target);
        return;
    }
    piece->result = compressed_pin(&piece->cluster, &slot);
    if (!piece->result)
        take_piece(request, piece, slot);
}

/* Serves the pieces found in the cache, and keeps the others. */
static uint64_t
copy_cached_pieces(Request *request)
{
    uint64_t bytes_left = 0;
    unsigned n_left = 0;

    for (unsigned i = 0; i < request->n_pieces; i++) {
        Piece *piece = &request->pieces[i];
        Slot *slot = NULL;

        if (!is_needed_once(request, piece))
            slot = slot_cache_pin_present(
                cache_of(piece),
                compressed_key(piece->cluster.layer_index, piece->cluster.host_offset));
        if (slot) {
            take_piece(request, piece, slot);
        } else {
            bytes_left += piece->length_bytes;
            request->pieces[n_left++] = *piece;
        }
    }
    request->n_pieces = n_left;
    return bytes_left;
}

static QimgErrno
finish_pieces(Request *request)
{
    QimgChain *chain = request->image->chain;
    uint64_t bytes_left = copy_cached_pieces(request);
    unsigned n_pieces = request->n_pieces;

    request->n_pieces = 0;
    if (n_pieces > 0)
        qimg_workers_parallel(
            !request->is_bulk && bytes_left >= MIN_PARALLEL_BYTES ? chain->workers : NULL,
            n_pieces, inflate_piece, request);
    for (unsigned i = 0; i < n_pieces; i++) {
        const Piece *piece = &request->pieces[i];

        if (piece->result == -EIO)
            report_damage(chain, piece->cluster.layer_index, QIMG_RULE_COMPRESSED_STREAM,
                          piece->guest_offset);
        if (piece->result)
            return piece->result;
    }
    return 0;
}

static QimgErrno
add_piece(Request *request, const ImageRun *r, uint64_t view_offset, uint8_t *target)
{
    QimgChain *chain = request->image->chain;

    if (request->n_pieces == MAX_PIECES) {
        QimgErrno err = finish_pieces(request);

        if (err)
            return err;
    }
    request->pieces[request->n_pieces++] = (Piece){
        .cluster =
            {
                .chain = chain,
                .layer_index = r->layer_index,
                .host_offset = r->run.host_offset,
                .stream_bytes = r->run.stream_bytes,
            },
        .guest_offset = view_offset,
        .in_cluster_bytes =
            view_offset & (chain->layers[r->layer_index]->cluster_bytes - 1),
        .length_bytes = r->run.length_bytes,
        .target = target,
    };
    return 0;
}

static QimgErrno
read_data(const Request *request, const ImageRun *r, uint64_t view_offset,
          uint8_t *target)
{
    QimgChain *chain = request->image->chain;
    QimgFormat *layer = chain->layers[r->layer_index];

    if (layer->encryption)
        return read_encrypted(layer, r->run.host_offset, view_offset, target,
                              r->run.length_bytes,
                              request->is_bulk ? NULL : chain->workers);
    return qimg_storage_read(qimg_format_data_storage(layer), QIMG_IO_DATA,
                             r->run.host_offset, target, r->run.length_bytes);
}

/* One run of a request. */
static QimgErrno
read_run(Request *request, const ImageRun *r, uint64_t view_offset, uint8_t *target)
{
    QimgChain *chain = request->image->chain;
    QimgErrno err;

    switch (r->run.kind) {
    case QIMG_RUN_DATA:
        qimg_wait_refuse(request->refusal);
        err = read_data(request, r, view_offset, target);
        qimg_wait_refuse(NULL);
        return err;
    case QIMG_RUN_COMPRESSED:
        return add_piece(request, r, view_offset, target);
    case QIMG_RUN_DAMAGED:
        report_damage(chain, r->layer_index, r->run.rule, view_offset);
        return -EIO;
    case QIMG_RUN_UNALLOCATED:
    case QIMG_RUN_ZERO:
        break;
    }
    memset(target, 0, r->run.length_bytes);
    chain_count(chain, COUNTER_ZERO_BYTES, r->run.length_bytes);
    return 0;
}

/* Whether the refused read of @r would have been the whole answer. Not in a chain that
 * can change: outside the gate, the bytes may become those of another cluster. */
static bool
is_answer(const Request *request, const ImageRun *r, size_t length_bytes)
{
    const QimgChain *chain = request->image->chain;

    return request->refusal->place.length_bytes == length_bytes &&
           r->run.length_bytes == length_bytes && !chain->layers[0]->is_writable &&
           !chain->layers[r->layer_index]->encryption;
}

static QimgErrno
read_range(QimgImage *image, bool is_bulk, uint64_t guest_offset, uint8_t *buffer,
           size_t length_bytes, QimgWaitRefusal *refusal)
{
    Request request;
    uint64_t compressed_cluster_bytes = 0;
    size_t done = 0;

    request.image = image;
    request.is_bulk = is_bulk;
    request.is_sequential = read_ahead_is_sequential(image, guest_offset);
    request.refusal = refusal;
    request.n_pieces = 0;
    while (done < length_bytes) {
        uint64_t view_offset = image->base_bytes + guest_offset + done;
        ImageRun r;
        QimgErrno err = image_map_run(image, view_offset, length_bytes - done, &r);

        if (!err)
            err = read_run(&request, &r, view_offset, buffer + done);
        if (err && refusal && refusal->is_refused)
            refusal->place.is_answer = is_answer(&request, &r, length_bytes);
        if (err)
            return err;
        if (r.run.kind == QIMG_RUN_COMPRESSED)
            compressed_cluster_bytes = image->chain->layers[r.layer_index]->cluster_bytes;
        done += r.run.length_bytes;
    }
    if (compressed_cluster_bytes == 0)
        return 0;
    /* First, so that the workers are busy while this thread waits or copies. */
    if (!is_bulk)
        read_ahead_note(image, guest_offset, length_bytes, compressed_cluster_bytes);
    return finish_pieces(&request);
}

QimgErrno
image_read_inside(QimgImage *image, uint64_t guest_offset, uint8_t *buffer,
                  size_t length_bytes)
{
    return read_range(image, false, guest_offset, buffer, length_bytes, NULL);
}

int
qimg_image_read(QimgImage *image, uint64_t guest_offset, void *buffer,
                size_t length_bytes)
{
    return qimg_image_read_with(image, guest_offset, buffer, length_bytes, 0);
}

/* Checks, after the bytes were read, and counts. */
static QimgErrno
end_read(QimgChain *chain, QimgErrno err, size_t length_bytes)
{
    if (!err && chain_is_stale(chain))
        err = -EIO;
    chain_count(chain, COUNTER_READS, 1);
    if (err)
        chain_count(chain, COUNTER_ERRORS, 1);
    else
        chain_count(chain, COUNTER_BYTES, length_bytes);
    return err;
}

static QimgErrno
read_view(QimgImage *image, uint64_t guest_offset, void *buffer, size_t length_bytes,
          bool is_bulk, QimgWaitRefusal *refusal)
{
    QIMG_TRACE_REQUEST("read", image, guest_offset, length_bytes);
    QIMG_GATE_SCOPE(image->chain->gate);
    QimgErrno err;

    if (!qimg_range_fits(guest_offset, length_bytes, image_size_bytes(image)))
        return -EINVAL;
    for (unsigned i = image->first_layer; i < image->chain->n_layers; i++)
        if (image->chain->layers[i]->data_error)
            return image->chain->layers[i]->data_error;
    err = read_range(image, is_bulk, guest_offset, buffer, length_bytes, refusal);
    if (refusal && refusal->is_refused)
        return -EAGAIN;
    return end_read(image->chain, err, length_bytes);
}

int
qimg_image_read_with(QimgImage *image, uint64_t guest_offset, void *buffer,
                     size_t length_bytes, unsigned flags)
{
    if (flags & ~QIMG_READ_ONCE)
        return -EINVAL;
    return read_view(image, guest_offset, buffer, length_bytes, flags & QIMG_READ_ONCE,
                     NULL);
}

int
qimg_image_read_unless_waiting(QimgImage *image, uint64_t guest_offset, void *buffer,
                               size_t length_bytes, bool expects_wait,
                               QimgReadPlace *place_out)
{
    QimgWaitRefusal refusal = {.is_expected = expects_wait};
    QimgErrno err = read_view(image, guest_offset, buffer, length_bytes, false, &refusal);

    if (!qimg_struct_give(place_out, &refusal.place, sizeof refusal.place))
        return -EINVAL;
    return err;
}

int
qimg_image_end_read(QimgImage *image, const QimgReadPlace *place)
{
    QimgReadPlace own;

    if (!qimg_struct_take(&own, sizeof own, place) || !own.is_answer)
        return -EINVAL;
    return end_read(image->chain, 0, own.length_bytes);
}
