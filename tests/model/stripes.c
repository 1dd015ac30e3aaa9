/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that own interleaved stripes of the disk: byte B belongs to thread number B /
 * stripe_bytes mod n_threads. They meet in clusters, sectors and tables, never in a byte,
 * so each one knows the exact content of its bytes. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "model.h"

#define MAX_PIECES 12u /* per operation */

typedef enum {
    OP_WRITE,
    OP_WRITE_ZEROS,
    OP_ZERO,
    OP_DISCARD,
    OP_ALLOCATE,
    OP_READ,
    OP_MAP,
    OP_SEEK,
    OP_PAST_END,
    OP_FLUSH,
    N_OPS,
} Op;

/* The frequency of each operation: one row is drawn per phase. */
static const unsigned profiles[][N_OPS] = {
    {30, 3, 8, 8, 4, 25, 8, 8, 4, 2},     /* everything */
    {80, 0, 0, 0, 0, 15, 0, 0, 5, 0},     /* filling */
    {30, 5, 20, 30, 0, 10, 3, 3, 1, 1},   /* emptying and filling */
    {10, 5, 10, 40, 5, 10, 10, 10, 0, 1}, /* emptying */
    {45, 0, 5, 20, 0, 10, 0, 0, 2, 18},   /* freed clusters are reused repeatedly */
    {10, 3, 20, 20, 3, 5, 3, 3, 30, 3},   /* growing, at the end of the disk */
};

#define PROFILE_AT_END (G_N_ELEMENTS(profiles) - 1)

typedef struct {
    Model *model;
    Where where;
    Draw draw;
    const unsigned *profile;
    uint64_t stripe_bytes;
    uint64_t n_ops;
    uint64_t window_start; /* the source of ranges */
    uint64_t window_bytes;
    pthread_barrier_t *start;
    uint8_t *buffer; /* DRAW_MAX_BYTES */
} Worker;

/* This thread's next piece of [*@at, @end); false: there is none. */
static bool
next_own_piece(const Worker *w, uint64_t *at, uint64_t end, uint64_t *piece_end_out)
{
    unsigned n_threads = w->model->settings->n_threads;
    uint64_t stripe;
    uint64_t ahead;

    if (n_threads == 1) {
        *piece_end_out = end;
        return *at < end;
    }
    stripe = *at / w->stripe_bytes;
    ahead = (w->where.thread + n_threads - stripe % n_threads) % n_threads;
    if (ahead > 0)
        *at = (stripe + ahead) * w->stripe_bytes;
    *piece_end_out = MIN(end, (*at / w->stripe_bytes + 1) * w->stripe_bytes);
    return *at < end;
}

/* Changes a range of this thread. */
static void
change_piece(Worker *w, Op op, uint64_t start, uint64_t length)
{
    static const char *const names[] = {"write", "write zeros", "zero", "discard"};
    QimgImage *image = w->model->image;
    const uint8_t *wanted = op <= OP_WRITE_ZEROS ? w->buffer : NULL;
    uint8_t *expected = w->model->bytes + start;
    int err;

    if (op == OP_WRITE)
        draw_content(&w->draw, w->buffer, length);
    else if (op == OP_WRITE_ZEROS)
        memset(w->buffer, 0, length);
    model_trace(&w->where, names[op], start, length);
    if (wanted)
        err = qimg_image_write(image, start, wanted, length);
    else if (op == OP_ZERO)
        err = qimg_image_zero(image, start, length);
    else
        err = qimg_image_discard(image, start, length);
    if (op == OP_DISCARD && !w->model->discards)
        model_expect(&w->where, names[op], start, length, err, -EOPNOTSUPP);
    else if (!model_is_done(&w->where, names[op], start, length, err))
        model_adopt(w->model, &w->where, start, length, wanted);
    else if (wanted)
        memcpy(expected, wanted, length);
    else
        memset(expected, 0, length);
}

static void
change(Worker *w, Op op, uint64_t start, uint64_t length)
{
    uint64_t end = start + length;
    uint64_t piece_end;

    for (unsigned n = 0; n < MAX_PIECES && next_own_piece(w, &start, end, &piece_end);
         n++, start = piece_end)
        change_piece(w, op, start, piece_end - start);
}

static void
past_end(Worker *w)
{
    const Settings *settings = w->model->settings;
    uint64_t size_bytes = atomic_load(&w->model->size_bytes);
    uint64_t length = draw_length(&w->draw, &w->model->places);
    uint64_t start = size_bytes + draw_below(&w->draw, 20000);
    uint64_t piece_end;
    int err;

    length = MIN(length, 100000);
    start -= draw_below(&w->draw, size_bytes < 10000 ? size_bytes + 1 : 10000);
    if (!next_own_piece(w, &start, start + length, &piece_end) ||
        piece_end > settings->max_bytes || piece_end <= size_bytes)
        return;
    length = piece_end - start;
    draw_content(&w->draw, w->buffer, length);
    model_trace(&w->where, "write past the end", start, length);
    if (!qimg_image_is_growable(w->model->image)) {
        model_expect(&w->where, "write past the end", start, length,
                     qimg_image_write(w->model->image, start, w->buffer, length),
                     -ENOSPC);
        return;
    }
    if (!settings->resizes)
        return;
    err = qimg_image_write(w->model->image, start, w->buffer, length);
    if (model_is_done(&w->where, "write past the end", start, length, err)) {
        memcpy(w->model->bytes + start, w->buffer, length);
        model_grow(w->model, piece_end);
    } else { /* it may have grown all the same */
        size_bytes = qimg_image_get_size_bytes(w->model->image);
        model_grow(w->model, size_bytes);
        if (start < size_bytes)
            model_adopt(w->model, &w->where, start, MIN(piece_end, size_bytes) - start,
                        w->buffer);
        return;
    }
    if (qimg_image_get_size_bytes(w->model->image) < piece_end)
        model_fail(&w->where, "the disk ends before what was written");
}

static void
read_range(Worker *w, uint64_t start, uint64_t length)
{
    uint64_t end = start + length;
    uint64_t at = start;
    uint64_t piece_end;

    model_trace(&w->where, "read", start, length);
    model_expect(&w->where, "read", start, length,
                 qimg_image_read(w->model->image, start, w->buffer, length), 0);
    for (; next_own_piece(w, &at, end, &piece_end); at = piece_end)
        model_compare(&w->where, "read", at, piece_end - at, w->buffer + (at - start));
}

/* The range [@start, @end), reported as without data, must be zeros. */
static void
expect_hole(Worker *w, const char *name, uint64_t start, uint64_t end)
{
    uint64_t asked = start;
    uint64_t piece_end;

    for (; next_own_piece(w, &start, end, &piece_end); start = piece_end)
        for (uint64_t at = start; at < piece_end; at++)
            if (w->model->bytes[at] != 0)
                model_fail(&w->where,
                           "%s at %#" G_GINT64_MODIFIER
                           "x says there is a hole up to %#" G_GINT64_MODIFIER
                           "x, but the disk holds %02x at %#" G_GINT64_MODIFIER "x",
                           name, (guint64)asked, (guint64)end, w->model->bytes[at],
                           (guint64)at);
}

static void
map_range(Worker *w, uint64_t start)
{
    QimgExtent e = {.struct_bytes = sizeof e};

    model_trace(&w->where, "map", start, 1);
    model_expect(&w->where, "map", start, 1, qimg_image_map(w->model->image, start, &e),
                 0);
    if (e.kind == QIMG_EXTENT_DAMAGED)
        model_fail(&w->where, "map at %#" G_GINT64_MODIFIER "x: damaged: %s",
                   (guint64)start, e.reason);
    if (e.guest_offset != start || e.length_bytes == 0)
        model_fail(&w->where, "map at %#" G_GINT64_MODIFIER "x answers elsewhere",
                   (guint64)start);
    if (e.kind <= QIMG_EXTENT_ZERO)
        expect_hole(w, "map", start,
                    MIN(start + e.length_bytes, w->model->settings->max_bytes));
}

static void
seek(Worker *w, uint64_t start)
{
    bool hole = draw_chance(&w->draw, 50);
    const char *name = hole ? "seek for a hole" : "seek for data";
    uint64_t found = 0;
    int err;

    model_trace(&w->where, name, start, 1);
    err = qimg_image_seek(w->model->image, start, hole, &found);
    if (!hole && err == -ENXIO) {
        /* Other threads may grow the disk beyond the known size. */
        expect_hole(w, name, start, atomic_load(&w->model->size_bytes));
        return;
    }
    model_expect(&w->where, name, start, 1, err, 0);
    if (found < start || found > w->model->settings->max_bytes)
        model_fail(&w->where,
                   "%s at %#" G_GINT64_MODIFIER "x answers %#" G_GINT64_MODIFIER "x",
                   name, (guint64)start, (guint64)found);
    if (!hole)
        expect_hole(w, name, start, found);
    else if (found < qimg_image_get_size_bytes(w->model->image))
        expect_hole(w, name, found, found + 1);
}

static Op
draw_op(Worker *w)
{
    unsigned sum = 0;
    unsigned op = 0;

    for (unsigned i = 0; i < N_OPS; i++)
        sum += w->profile[i];
    sum = (unsigned)draw_below(&w->draw, sum);
    while (sum >= w->profile[op])
        sum -= w->profile[op++];
    return op;
}

static void
run_op(Worker *w)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(w->model->image);
    Op op = draw_op(w);
    uint64_t start, in_window, length;

    if (op == OP_PAST_END || size_bytes == 0) {
        past_end(w);
        return;
    }
    start = MIN(w->window_start, size_bytes - 1);
    if (w->profile == profiles[PROFILE_AT_END] && size_bytes > w->window_bytes)
        start = size_bytes - w->window_bytes;
    draw_range(&w->draw, &w->model->places, MIN(w->window_bytes, size_bytes - start),
               &in_window, &length);
    start += in_window;
    switch (op) {
    case OP_FLUSH:
        model_trace(&w->where, "flush", 0, 0);
        model_expect(&w->where, "flush", 0, 0, qimg_image_flush(w->model->image), 0);
        break;
    case OP_ALLOCATE: /* changes no content, not even of others' bytes */
        model_trace(&w->where, "allocate", start, length);
        (void)model_is_done(&w->where, "allocate", start, length,
                            qimg_image_allocate(w->model->image, start, length));
        break;
    case OP_READ:
        read_range(w, start, length);
        break;
    case OP_MAP:
        map_range(w, start);
        break;
    case OP_SEEK:
        seek(w, start);
        break;
    default:
        change(w, op, start, length);
        break;
    }
}

static void *
work(void *user)
{
    Worker *w = user;

    w->buffer = g_malloc(DRAW_MAX_BYTES);
    pthread_barrier_wait(w->start);
    for (w->where.op = 0; w->where.op < w->n_ops; w->where.op++)
        run_op(w);
    g_free(w->buffer);
    return NULL;
}

void
run_stripes(Model *model, Draw *draw, uint64_t n_ops)
{
    const uint64_t stripes[] = {64,   512,   777,    4096,
                                5000, 65536, 100001, model->places.cluster_bytes};
    unsigned n_threads = model->settings->n_threads;
    uint64_t stripe_bytes = stripes[draw_below(draw, G_N_ELEMENTS(stripes))];
    const unsigned *profile = profiles[draw_below(draw, G_N_ELEMENTS(profiles))];
    /* Often all threads work in a few clusters, where they must wait for each other. */
    bool is_narrow =
        n_threads > 1 && (profile == profiles[PROFILE_AT_END] || draw_chance(draw, 60));
    uint64_t window_start = is_narrow ? draw_below(draw, model->settings->max_bytes) : 0;
    uint64_t window_bytes =
        is_narrow ? 3 * model->places.cluster_bytes : model->settings->max_bytes;
    uint64_t size_bytes = atomic_load(&model->size_bytes);
    pthread_barrier_t start;
    g_autofree Worker *workers = g_new0(Worker, n_threads);
    g_autofree pthread_t *threads = g_new0(pthread_t, n_threads);

    if (is_narrow && size_bytes > 0)
        window_start %= size_bytes;
    pthread_barrier_init(&start, NULL, n_threads);
    for (unsigned i = 0; i < n_threads; i++) {
        Worker *w = &workers[i];

        *w = (Worker){.model = model,
                      .where = {.model = model, .thread = i},
                      .draw = draw_new(model->settings->seed, model->phase, i + 1),
                      .profile = profile,
                      .stripe_bytes = stripe_bytes,
                      .window_start = window_start,
                      .window_bytes = window_bytes,
                      .start = &start,
                      .n_ops = (n_ops + n_threads - 1 - i) / n_threads};
        if (pthread_create(&threads[i], NULL, work, w) != 0)
            model_fail(&w->where, "no thread can be made");
    }
    for (unsigned i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
}
