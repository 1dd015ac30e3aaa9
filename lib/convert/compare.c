/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compares two disks by their maps: only ranges that at least one of them stores are
 * read. The calling thread walks the maps and gathers a batch of pieces; several threads
 * read them. The first difference in the order of the disk counts. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/errors.h"
#include "base/struct-size.h"
#include "base/workers.h"
#include "base/zeros.h"
#include "qimg.h"

#define COMPARE_PIECE_BYTES QIMG_MIB
/* Enough that a slow piece does not stop the other threads for long. */
#define PIECES_PER_COMPARER 4u
#define MAX_COMPARERS       64u

typedef struct {
    uint64_t guest_offset;
    size_t length_bytes;
    bool is_stored[2]; /* else zeros, or beyond the disk's end */
    /* The result: */
    QimgErrno err;
    unsigned failed;           /* the disk that cannot be read */
    uint64_t different_offset; /* UINT64_MAX: none */
} ComparePiece;

typedef struct {
    QimgImage *images[2];
    uint64_t size_bytes[2];
    bool is_strict;
    uint64_t next_offset;
    QimgExtent extents[2]; /* those at next_offset; zeros beyond the disk's end */
    ComparePiece *pieces;
    unsigned n_slots;
    unsigned n_pieces;
    uint8_t **buffers; /* two for each slot, made as needed */
    QimgComparison result;
} Comparer;

static bool
is_stored(const QimgExtent *extent)
{
    return extent->kind != QIMG_EXTENT_UNALLOCATED && extent->kind != QIMG_EXTENT_ZERO;
}

/* ---- one piece, in any thread ---- */

static QimgErrno
read_side(const Comparer *c, const ComparePiece *piece, unsigned side, uint8_t **buffer)
{
    void *made = *buffer;

    if (!made && posix_memalign(&made, 4096, COMPARE_PIECE_BYTES) != 0)
        return -ENOMEM;
    *buffer = made;
    return qimg_image_read_with(c->images[side], piece->guest_offset, made,
                                piece->length_bytes, QIMG_READ_ONCE);
}

static size_t
find_not_zero(const uint8_t *bytes, size_t n_bytes)
{
    for (size_t at = 0, n; at < n_bytes; at += n) {
        size_t same;

        n = qimg_min_u64(n_bytes - at, 4096);
        same = qimg_find_different(bytes + at, qimg_zeros, n);
        if (same < n)
            return at + same;
    }
    return n_bytes;
}

static void
compare_item(void *user, unsigned item_index)
{
    Comparer *c = user;
    ComparePiece *piece = &c->pieces[item_index];
    uint8_t **buffers = &c->buffers[2 * (size_t)item_index];
    size_t same;

    for (unsigned side = 0; side < 2; side++) {
        if (!piece->is_stored[side])
            continue;
        piece->err = read_side(c, piece, side, &buffers[side]);
        piece->failed = side;
        if (piece->err)
            return;
    }
    if (piece->is_stored[0] && piece->is_stored[1])
        same = qimg_find_different(buffers[0], buffers[1], piece->length_bytes);
    else
        same = find_not_zero(buffers[piece->is_stored[0] ? 0 : 1], piece->length_bytes);
    if (same < piece->length_bytes)
        piece->different_offset = piece->guest_offset + same;
}

/* ---- the walk, in the calling thread ---- */

/* Gets the extent of one disk at next_offset, as far as it is not known yet. */
static QimgErrno
look_up(Comparer *c, unsigned side)
{
    QimgExtent *extent = &c->extents[side];

    if (extent->guest_offset + extent->length_bytes > c->next_offset)
        return 0;
    if (c->next_offset < c->size_bytes[side])
        return qimg_image_map(c->images[side], c->next_offset, extent);
    *extent = (QimgExtent){.struct_bytes = sizeof *extent,
                           .guest_offset = c->next_offset,
                           .length_bytes = UINT64_MAX - c->next_offset,
                           .kind = QIMG_EXTENT_UNALLOCATED};
    return 0;
}

/* Whether both extents are stored, or not stored, in the same way. */
static bool
is_same_status(const QimgExtent *a, const QimgExtent *b)
{
    return a->kind == b->kind && a->present == b->present &&
           (a->host_path == NULL) == (b->host_path == NULL);
}

static void
set_difference(Comparer *c, QimgDifference difference, uint64_t guest_offset)
{
    c->result.difference = difference;
    c->result.guest_offset = guest_offset;
}

static bool
fail_at(Comparer *c, unsigned side, QimgErrno err, uint64_t guest_offset, bool in_map,
        GError **error)
{
    const char *changed = qimg_image_find_changed(c->images[side], TRUE);

    c->result.failed_image = side + 1;
    c->result.is_map_at_fault = in_map;
    if (changed)
        qimg_set_error(error, QIMG_ERROR_FAILED,
                       "\"%s\" was changed by another program (close it there, and "
                       "compare again)",
                       changed);
    else
        qimg_set_error_errno(error, -err, NULL,
                             "cannot be read at offset %" G_GUINT64_FORMAT,
                             (guint64)guest_offset);
    return false;
}

/* Plans pieces until the batch is full, the disks end, or their allocation differs. */
static bool
fill_batch(Comparer *c, uint64_t end, GError **error)
{
    c->n_pieces = 0;
    while (c->next_offset < end && c->n_pieces < c->n_slots) {
        uint64_t length = end - c->next_offset;
        bool stored[2];

        for (unsigned side = 0; side < 2; side++) {
            QimgExtent *extent = &c->extents[side];
            QimgErrno err = look_up(c, side);

            if (err)
                return fail_at(c, side, err, c->next_offset, true, error);
            length = qimg_min_u64(length, extent->guest_offset + extent->length_bytes -
                                              c->next_offset);
            stored[side] = is_stored(extent);
        }
        if (c->is_strict && !is_same_status(&c->extents[0], &c->extents[1])) {
            set_difference(c, QIMG_DIFFERENT_ALLOCATION, c->next_offset);
            return true;
        }
        if (stored[0] || stored[1]) {
            length = qimg_min_u64(length, COMPARE_PIECE_BYTES -
                                              c->next_offset % COMPARE_PIECE_BYTES);
            c->pieces[c->n_pieces++] = (ComparePiece){.guest_offset = c->next_offset,
                                                      .length_bytes = length,
                                                      .is_stored = {stored[0], stored[1]},
                                                      .different_offset = UINT64_MAX};
        } else if (c->n_pieces > 0 && length > COMPARE_PIECE_BYTES) {
            /* A hole found by a long walk: show the progress before the next one. */
            c->next_offset += length;
            return true;
        }
        c->next_offset += length;
    }
    return true;
}

/* Takes the first difference, or failure, of the batch; *@ends_out if there is one. */
static bool
take_results(Comparer *c, bool *ends_out, GError **error)
{
    *ends_out = c->result.difference != QIMG_DIFFERENT_NOT;
    for (unsigned i = 0; i < c->n_pieces; i++) {
        const ComparePiece *piece = &c->pieces[i];

        if (piece->err)
            return fail_at(c, piece->failed, piece->err, piece->guest_offset, false,
                           error);
        if (piece->different_offset != UINT64_MAX) {
            set_difference(c, QIMG_DIFFERENT_CONTENT, piece->different_offset);
            *ends_out = true;
            return true;
        }
    }
    return true;
}

static bool
compare_disks(Comparer *c, const QimgCompareOptions *options, QimgWorkers *workers,
              GError **error)
{
    uint64_t end = qimg_max_u64(c->size_bytes[0], c->size_bytes[1]);
    bool ends = false;

    while (!ends && c->next_offset < end) {
        if (options->on_progress &&
            !options->on_progress(c->next_offset, end, options->user)) {
            qimg_set_error_errno(error, ECANCELED, NULL, "the comparison has not ended");
            return false;
        }
        if (!fill_batch(c, end, error))
            return false;
        qimg_workers_parallel(workers, c->n_pieces, compare_item, c);
        if (!take_results(c, &ends, error))
            return false;
    }
    return true;
}

gboolean
qimg_compare(QimgImage *a, QimgImage *b, const QimgCompareOptions *options,
             QimgComparison *out, GError **error)
{
    QimgCompareOptions own = {0};
    Comparer c = {.images = {a, b}};
    unsigned n_threads;
    bool is_good = true;

    if (options && !qimg_struct_take(&own, sizeof own, options))
        return qimg_misuse(error, "struct_bytes: is not set");
    n_threads = own.n_threads ? own.n_threads : qimg_default_threads();
    n_threads = MIN(n_threads, MAX_COMPARERS);
    c.n_slots = n_threads * PIECES_PER_COMPARER;
    c.pieces = g_new0(ComparePiece, c.n_slots);
    c.buffers = g_new0(uint8_t *, 2 * (gsize)c.n_slots);
    c.is_strict = own.strict;
    for (unsigned side = 0; side < 2; side++) {
        c.size_bytes[side] = qimg_image_get_size_bytes(c.images[side]);
        c.extents[side].struct_bytes = sizeof c.extents[side];
    }
    c.result.sizes_differ = c.size_bytes[0] != c.size_bytes[1];
    if (c.is_strict && c.result.sizes_differ) {
        set_difference(&c, QIMG_DIFFERENT_SIZE,
                       qimg_min_u64(c.size_bytes[0], c.size_bytes[1]));
    } else {
        QimgWorkers *workers = n_threads > 1 ? qimg_workers_new(n_threads - 1) : NULL;

        is_good = compare_disks(&c, &own, workers, error);
        qimg_workers_free(workers);
    }
    for (unsigned i = 0; i < 2 * c.n_slots; i++)
        free(c.buffers[i]);
    g_free(c.buffers);
    g_free(c.pieces);
    if (out && !qimg_struct_give(out, &c.result, sizeof c.result))
        return is_good ? qimg_misuse(error, "struct_bytes: is not set") : FALSE;
    return is_good;
}
