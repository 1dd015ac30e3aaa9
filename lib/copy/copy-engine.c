/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine of a copy: a ring of pieces in flight.
 *
 *   calling thread ──plan──▶ workers ──read, find zeros, write──▶ done ──▶ calling thread
 *                                                                     └──▶ digests
 *
 * Pieces are numbered in the order of the disk. Workers take them in that order and
 * finish in any; the calling thread, which plans, and each digest process finished ones
 * in order. A slot of the ring is free again when all of them are past it.
 *
 * I1  A piece belongs to the calling thread until it is planned, then to its worker until
 *     it is done; from then on it is read-only, until its slot is free.
 *
 * I2  A buffer is attached to a piece only while a later stage than the worker needs its
 *     content: else the worker's next piece finds the buffer in the processor's cache. */
#include "copy/copy-engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "base/workers.h"
#include "copy/copy-compare.h"
#include "copy/copy-digest.h"
#include "copy/copy-plan.h"
#include "copy/copy-rescue.h"
#include "copy/copy-target.h"
#include "copy/copy-zeros.h"

/* Enough that a slow piece does not stop the others for long. */
#define PIECES_PER_THREAD 3u
#define PIECES_MORE       2u

typedef struct {
    CopyResult result;
    uint8_t *buffer; /* NULL once done: zeros */
    bool is_done;    /* guarded by the ring's lock */
} RingSlot;

typedef struct Engine Engine;

typedef struct {
    Engine *engine;
    CopyDigest *digest;
    pthread_t thread;
    uint64_t n_pieces;   /* guarded by the ring's lock: number of pieces passed */
    uint64_t done_bytes; /* guarded by the ring's lock: up to this offset of the disk */
} DigestThread;

struct Engine {
    const CopyJob *job; /* const */
    CopyPlan plan;      /* of the calling thread */
    bool is_planned;    /* of the calling thread: everything is planned */
    unsigned n_slots;   /* const */
    bool is_read_later; /* const: stages after the workers need the content */

    QimgMutex lock;          /* rank QIMG_RANK_COPY */
    QimgCond work;           /* wakes the workers: a piece was planned, or the end */
    QimgCond progress;       /* wakes all others: a piece is done, a digest went on */
    RingSlot *slots;         /* guarded by lock, as in I1 */
    uint64_t n_planned;      /* guarded by lock */
    uint64_t n_taken;        /* guarded by lock */
    uint64_t n_consumed;     /* guarded by lock */
    uint64_t n_freed;        /* guarded by lock */
    uint64_t consumed_bytes; /* guarded by lock */
    bool is_ending;          /* guarded by lock */
    uint8_t *
        *free_buffers; /* guarded by lock: a stack, since the last used one is warm */
    unsigned n_free_buffers; /* guarded by lock */

    pthread_t *workers; /* of the calling thread, as all below */
    unsigned n_workers;
    DigestThread digests[COPY_N_DIGESTS];
    unsigned n_digests; /* const once the threads run */
};

static RingSlot *
slot_of(Engine *engine, uint64_t number)
{
    return &engine->slots[number % engine->n_slots];
}

static bool
is_stopped(const Engine *engine)
{
    return atomic_load_explicit(engine->job->stop, memory_order_relaxed);
}

/* ---- workers ---- */

static uint8_t *
take_buffer(Engine *engine)
{
    void *buffer = NULL;

    {
        QIMG_LOCK_SCOPE(&engine->lock);

        if (engine->n_free_buffers > 0)
            return engine->free_buffers[--engine->n_free_buffers];
    }
    /* Aligned for direct I/O. */
    if (posix_memalign(&buffer, COPY_GRANULE_BYTES, engine->plan.chunk_bytes) != 0)
        return NULL;
    return buffer;
}

/* Under lock. */
static void
give_buffer(Engine *engine, uint8_t *buffer)
{
    if (buffer)
        engine->free_buffers[engine->n_free_buffers++] = buffer;
}

static uint64_t
count_data(const uint8_t *buffer, size_t n_bytes)
{
    size_t start = 0, end = 0;
    uint64_t n = 0;

    while (copy_find_data(buffer, n_bytes, &start, &end)) {
        n += end - start;
        start = end;
    }
    return n;
}

static QimgErrno
read_piece(Engine *engine, CopyResult *result, uint8_t *buffer)
{
    const CopyJob *job = engine->job;
    const CopyPiece *piece = &result->piece;
    QimgErrno err = qimg_image_read_with(job->image, piece->guest_offset, buffer,
                                         piece->length_bytes, QIMG_READ_ONCE);

    /* Of a changed image nothing is readable. */
    if (!copy_is_unreadable(err) || qimg_image_find_changed(job->image, FALSE))
        return err;
    result->bad = g_array_new(FALSE, FALSE, sizeof(QimgUnreadable));
    return copy_rescue(job->image, piece->guest_offset, piece->length_bytes, buffer,
                       job->stop, result->bad);
}

/* Reads a piece, and writes it unless the calling thread does. */
static void
copy_data(Engine *engine, CopyResult *result, uint8_t *buffer)
{
    const CopyJob *job = engine->job;
    const CopyPiece *piece = &result->piece;

    result->read_error = read_piece(engine, result, buffer);
    if (result->read_error)
        return;
    result->data_bytes = count_data(buffer, piece->length_bytes);
    if (!job->target->storage)
        return;
    result->write_error = result->data_bytes > 0
                              ? copy_target_write(job->target, piece->guest_offset,
                                                  buffer, piece->length_bytes)
                              : copy_target_write_hole(job->target, piece->guest_offset,
                                                       piece->length_bytes);
}

/* Ranges given up during the copy compare as zeros, even if they can be read now. */
static void
clear_listed(const GArray *listed, const CopyPiece *piece, uint8_t *buffer)
{
    uint64_t piece_end = piece->guest_offset + piece->length_bytes;

    for (guint i = 0; listed && i < listed->len; i++) {
        const QimgUnreadable *range = &g_array_index(listed, QimgUnreadable, i);
        uint64_t start = qimg_max_u64(range->guest_offset, piece->guest_offset);
        uint64_t end = qimg_min_u64(range->guest_offset + range->length_bytes, piece_end);

        if (start < end)
            memset(buffer + (start - piece->guest_offset), 0, end - start);
    }
}

/* Compares the target's content with the disk's. */
static void
compare_piece(Engine *engine, RingSlot *slot)
{
    const CopyJob *job = engine->job;
    CopyResult *result = &slot->result;
    const CopyPiece *piece = &result->piece;
    uint8_t *found = take_buffer(engine);

    if (!piece->is_hole)
        slot->buffer = take_buffer(engine);
    if (!found || (!piece->is_hole && !slot->buffer)) {
        result->read_error = -ENOMEM;
    } else if (piece->is_hole) {
        result->compare_error = copy_reader_check_zeros(
            job->reader, piece->guest_offset, piece->length_bytes, found,
            engine->plan.chunk_bytes, job->stop, &result->different_offset);
    } else {
        result->read_error = read_piece(engine, result, slot->buffer);
        if (!result->read_error) {
            clear_listed(job->listed, piece, slot->buffer);
            result->data_bytes = count_data(slot->buffer, piece->length_bytes);
            result->compare_error = copy_reader_compare(job->reader, piece->guest_offset,
                                                        slot->buffer, piece->length_bytes,
                                                        found, &result->different_offset);
        }
    }
    QIMG_LOCK_SCOPE(&engine->lock);
    give_buffer(engine, found);
}

static void
work_on(Engine *engine, RingSlot *slot)
{
    CopyResult *result = &slot->result;
    const CopyPiece *piece = &result->piece;

    result->different_offset = COPY_NO_DIFFERENCE;
    if (engine->job->reader) {
        compare_piece(engine, slot);
        return;
    }
    if (piece->is_hole) {
        if (engine->job->target->storage)
            result->write_error = copy_target_write_hole(
                engine->job->target, piece->guest_offset, piece->length_bytes);
        return;
    }
    slot->buffer = take_buffer(engine);
    if (slot->buffer)
        copy_data(engine, result, slot->buffer);
    else
        result->read_error = -ENOMEM;
}

static void *
copy_worker_main(void *user)
{
    Engine *engine = user;

    qimg_mutex_lock(&engine->lock);
    for (;;) {
        RingSlot *slot;

        while (engine->n_taken == engine->n_planned && !engine->is_ending)
            qimg_cond_wait(&engine->work, &engine->lock);
        if (engine->is_ending)
            break;
        slot = slot_of(engine, engine->n_taken++);
        qimg_mutex_unlock(&engine->lock);
        if (is_stopped(engine))
            slot->result.read_error = -ECANCELED;
        else
            work_on(engine, slot);
        qimg_mutex_lock(&engine->lock);
        if (!engine->is_read_later || slot->result.data_bytes == 0) /* I2 */
            give_buffer(engine, g_steal_pointer(&slot->buffer));
        slot->is_done = true;
        qimg_cond_broadcast(&engine->progress);
    }
    qimg_mutex_unlock(&engine->lock);
    return NULL;
}

/* ---- digests ---- */

/* Frees the slots that all stages have passed. Under lock. */
static void
free_slots(Engine *engine)
{
    uint64_t n = engine->n_consumed;

    for (unsigned i = 0; i < engine->n_digests; i++)
        n = qimg_min_u64(n, engine->digests[i].n_pieces);
    for (; engine->n_freed < n; engine->n_freed++) {
        RingSlot *slot = slot_of(engine, engine->n_freed);

        give_buffer(engine, g_steal_pointer(&slot->buffer));
        g_clear_pointer(&slot->result.bad, g_array_unref);
    }
}

static void *
digest_main(void *user)
{
    DigestThread *self = user;
    Engine *engine = self->engine;

    qimg_mutex_lock(&engine->lock);
    while (!engine->is_ending && !is_stopped(engine)) {
        RingSlot *slot = slot_of(engine, self->n_pieces);
        const CopyPiece *piece = &slot->result.piece;

        if (self->n_pieces == engine->n_planned || !slot->is_done) {
            qimg_cond_wait(&engine->progress, &engine->lock);
            continue;
        }
        qimg_mutex_unlock(&engine->lock);
        copy_digest_add(self->digest, slot->buffer, piece->length_bytes);
        qimg_mutex_lock(&engine->lock);
        self->done_bytes = piece->guest_offset + piece->length_bytes;
        self->n_pieces++;
        free_slots(engine);
        qimg_cond_broadcast(&engine->progress);
    }
    /* The calling thread may wait for this digest. */
    qimg_cond_broadcast(&engine->progress);
    qimg_mutex_unlock(&engine->lock);
    return NULL;
}

/* ---- the calling thread ---- */

static QimgErrno
engine_find_data(void *user, uint64_t guest_offset, uint64_t *offset_out)
{
    return qimg_image_seek(user, guest_offset, FALSE, offset_out);
}

/* The next possible step of the calling thread. */
typedef enum {
    STEP_PLAN,
    STEP_CONSUME,
    STEP_END,
} Step;

static Step
wait_for_step(Engine *engine, uint64_t *done_bytes_out)
{
    QIMG_LOCK_SCOPE(&engine->lock);

    for (;;) {
        bool is_hashed = true;

        *done_bytes_out = engine->consumed_bytes;
        for (unsigned i = 0; i < engine->n_digests; i++) {
            *done_bytes_out =
                qimg_min_u64(*done_bytes_out, engine->digests[i].done_bytes);
            is_hashed &= engine->digests[i].n_pieces == engine->n_planned;
        }
        if (is_stopped(engine))
            return STEP_END;
        if (engine->n_consumed < engine->n_planned &&
            slot_of(engine, engine->n_consumed)->is_done)
            return STEP_CONSUME;
        if (!engine->is_planned && engine->n_planned - engine->n_freed < engine->n_slots)
            return STEP_PLAN;
        if (engine->is_planned && engine->n_consumed == engine->n_planned && is_hashed)
            return STEP_END;
        qimg_cond_wait(&engine->progress, &engine->lock);
    }
}

static void
plan_piece(Engine *engine)
{
    CopyPiece piece;

    if (!copy_plan_next(&engine->plan, &piece)) {
        engine->is_planned = true;
        return;
    }
    QIMG_LOCK_SCOPE(&engine->lock);
    *slot_of(engine, engine->n_planned++) = (RingSlot){.result.piece = piece};
    qimg_cond_signal(&engine->work);
}

static bool
consume_piece(Engine *engine, GError **error)
{
    const CopyJob *job = engine->job;
    RingSlot *slot =
        slot_of(engine, engine->n_consumed); /* only this thread changes it */
    CopyResult result = slot->result;

    if (!job->target->storage && !result.read_error)
        result.write_error = copy_target_append(job->target, slot->buffer,
                                                result.piece.length_bytes, job->stop);
    if (result.read_error == -ECANCELED || result.write_error == -ECANCELED ||
        result.compare_error == -ECANCELED)
        return true; /* stopped: the next step ends it */
    if (!job->consume(job->user, &result, error))
        return false;
    QIMG_LOCK_SCOPE(&engine->lock);
    engine->consumed_bytes = result.piece.guest_offset + result.piece.length_bytes;
    engine->n_consumed++;
    free_slots(engine);
    return true;
}

static bool
run_steps(Engine *engine, GError **error)
{
    for (;;) {
        uint64_t done_bytes;
        Step step = wait_for_step(engine, &done_bytes);

        if (engine->job->on_progress)
            engine->job->on_progress(engine->job->user, done_bytes);
        if (step == STEP_END)
            return !is_stopped(engine);
        if (step == STEP_PLAN)
            plan_piece(engine);
        else if (!consume_piece(engine, error))
            return false;
    }
}

static bool
start_threads(Engine *engine, GError **error)
{
    const CopyJob *job = engine->job;
    bool is_good = true;

    for (unsigned i = 0; i < COPY_N_DIGESTS && is_good; i++) {
        DigestThread *digest = &engine->digests[engine->n_digests];

        if (!job->digests[i])
            continue;
        *digest = (DigestThread){
            .engine = engine, .digest = job->digests[i], .done_bytes = job->begin_offset};
        is_good = qimg_thread_start(&digest->thread, digest_main, digest);
        engine->n_digests += is_good;
    }
    for (; engine->n_workers < job->n_threads; engine->n_workers++)
        if (!qimg_thread_start(&engine->workers[engine->n_workers], copy_worker_main,
                               engine))
            break;
    if (is_good && engine->n_workers > 0)
        return true;
    qimg_set_error(error, QIMG_ERROR_FAILED,
                   "no threads can be made (allow more processes)");
    return false;
}

static void
end_threads(Engine *engine)
{
    qimg_mutex_lock(&engine->lock);
    engine->is_ending = true;
    qimg_cond_broadcast(&engine->work);
    qimg_cond_broadcast(&engine->progress);
    qimg_mutex_unlock(&engine->lock);
    for (unsigned i = 0; i < engine->n_workers; i++)
        pthread_join(engine->workers[i], NULL);
    for (unsigned i = 0; i < engine->n_digests; i++)
        pthread_join(engine->digests[i].thread, NULL);
}

/* Chunks hold whole clusters of all layers, so that none is inflated twice. */
static uint64_t
chunk_bytes_of(const QimgImage *image)
{
    uint64_t chunk_bytes = COPY_MIN_CHUNK_BYTES;

    for (unsigned i = 0; i < qimg_image_get_n_layers(image); i++)
        chunk_bytes =
            qimg_max_u64(chunk_bytes, qimg_image_get_layer_cluster_bytes(image, i));
    return chunk_bytes;
}

bool
copy_engine_run(const CopyJob *job, GError **error)
{
    Engine engine = {.job = job, .consumed_bytes = job->begin_offset};
    bool is_good;

    for (unsigned i = 0; i < COPY_N_DIGESTS; i++)
        engine.is_read_later |= job->digests[i] != NULL;
    engine.is_read_later |= !job->target->storage;
    engine.plan = (CopyPlan){
        .size_bytes = job->size_bytes,
        .chunk_bytes = chunk_bytes_of(job->image),
        .max_hole_bytes =
            engine.is_read_later || job->target->is_device || job->target->keeps_zeros
                ? COPY_HOLE_PIECE_BYTES
                : qimg_align_down(UINT64_MAX, COPY_HOLE_PIECE_BYTES),
        .next_offset = job->begin_offset,
        .find_data = engine_find_data,
        .user = job->image,
    };
    engine.n_slots = PIECES_PER_THREAD * job->n_threads + PIECES_MORE;
    engine.slots = g_new0(RingSlot, engine.n_slots);
    /* One per slot, and one more per worker. */
    engine.free_buffers = g_new0(uint8_t *, (gsize)engine.n_slots + job->n_threads);
    engine.workers = g_new0(pthread_t, job->n_threads);
    qimg_mutex_init(&engine.lock, QIMG_RANK_COPY);
    qimg_cond_init(&engine.work);
    qimg_cond_init(&engine.progress);
    is_good = start_threads(&engine, error) && run_steps(&engine, error);
    end_threads(&engine);
    qimg_cond_clear(&engine.progress);
    qimg_cond_clear(&engine.work);
    qimg_mutex_clear(&engine.lock);
    for (unsigned i = 0; i < engine.n_slots; i++) {
        free(engine.slots[i].buffer);
        if (engine.slots[i].result.bad)
            g_array_unref(engine.slots[i].result.bad);
    }
    for (unsigned i = 0; i < engine.n_free_buffers; i++)
        free(engine.free_buffers[i]);
    g_free(engine.free_buffers);
    g_free(engine.slots);
    g_free(engine.workers);
    return is_good;
}
