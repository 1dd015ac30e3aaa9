/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that write to the same bytes. Each change fills its range with a value unique
 * in the phase (zeroing and discarding count as the value 0), and notes its begin and end
 * on a common clock. A read byte may be
 *
 *   - the value of a change that covers it and had begun when the read ended, unless
 *     another change that covers it began after that one had ended, and ended before the
 *     read began;
 *
 *   - its value before the phase, unless a change that covers it ended before the read.
 *
 * All ranges are known before the threads start. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

#define MAX_CHANGES      96u /* of one phase; values are bytes other than 0 */
#define REGION_CLUSTERS  5u
#define MAX_REGION_BYTES (256 * 1024u)

typedef enum {
    CHANGE_WRITE,
    CHANGE_ZERO,
    CHANGE_DISCARD,
} ChangeKind;

typedef struct {
    ChangeKind kind;
    uint64_t start;
    uint64_t end;
    uint8_t value;
    _Atomic uint64_t begun; /* atomic: 0, or the clock at its begin */
    _Atomic uint64_t ended; /* atomic: likewise */
} Change;

typedef struct {
    Model *model;
    uint64_t start; /* of the region */
    uint64_t end;
    unsigned n_changes;
    Change changes[MAX_CHANGES];
    _Atomic uint64_t clock;    /* atomic */
    pthread_barrier_t barrier; /* all begin at once */
} Race;

typedef struct {
    Race *race;
    Where where;
    Draw draw;
} Racer;

static uint64_t
tick(Race *race)
{
    return atomic_fetch_add(&race->clock, 1);
}

/* A copy of the changes' times, taken after a read. */
typedef struct {
    uint64_t begun[MAX_CHANGES];
    uint64_t ended[MAX_CHANGES];
    uint64_t read_begun;
    uint64_t read_ended;
} Times;

static void
take_times(const Race *race, Times *times)
{
    for (unsigned i = 0; i < race->n_changes; i++) {
        /* The end first: a change seen as ended is then also seen as begun. */
        times->ended[i] = atomic_load(&race->changes[i].ended);
        times->begun[i] = atomic_load(&race->changes[i].begun);
    }
}

static bool
covers(const Change *change, uint64_t at)
{
    return at >= change->start && at < change->end;
}

static bool
ended_before_read(const Times *times, unsigned i)
{
    return times->ended[i] != 0 && times->ended[i] < times->read_begun;
}

/* Whether the value of change @i, which covers @at, may be found there. */
static bool
may_be_found(const Race *race, const Times *times, unsigned i, uint64_t at)
{
    if (times->begun[i] == 0 || times->begun[i] > times->read_ended)
        return false;
    for (unsigned k = 0; times->ended[i] != 0 && k < race->n_changes; k++)
        if (covers(&race->changes[k], at) && ended_before_read(times, k) &&
            times->begun[k] > times->ended[i])
            return false;
    return true;
}

/* The possible values between two borders of changes, around @at. */
static void
find_allowed(const Race *race, const Times *times, uint64_t at, bool allowed[256],
             bool *old_allowed_out)
{
    memset(allowed, 0, 256);
    *old_allowed_out = true;
    for (unsigned i = 0; i < race->n_changes; i++) {
        if (!covers(&race->changes[i], at))
            continue;
        if (ended_before_read(times, i))
            *old_allowed_out = false;
        if (may_be_found(race, times, i, at))
            allowed[race->changes[i].value] = true;
    }
}

/* The next border behind @at. */
static uint64_t
next_border(const Race *race, uint64_t at, uint64_t end)
{
    for (unsigned i = 0; i < race->n_changes; i++) {
        if (race->changes[i].start > at)
            end = MIN(end, race->changes[i].start);
        if (race->changes[i].end > at)
            end = MIN(end, race->changes[i].end);
    }
    return end;
}

static void
check_bytes(const Where *where, const Race *race, const Times *times, uint64_t start,
            uint64_t end, const uint8_t *found)
{
    for (uint64_t at = start; at < end;) {
        uint64_t border = next_border(race, at, end);
        bool allowed[256];
        bool old_allowed;

        find_allowed(race, times, at, allowed, &old_allowed);
        for (; at < border; at++) {
            uint8_t byte = found[at - start];

            if (!allowed[byte] && !(old_allowed && byte == race->model->bytes[at]))
                model_fail(where,
                           "overlapping changes: found %02x at %#" G_GINT64_MODIFIER
                           "x (before: %02x%s), which nobody may have left there",
                           byte, (guint64)at, race->model->bytes[at],
                           old_allowed ? "" : ", overwritten");
        }
    }
}

static void
read_some(Racer *r, uint8_t *buffer)
{
    Race *race = r->race;
    uint64_t start = race->start + draw_below(&r->draw, race->end - race->start);
    uint64_t length = 1 + draw_below(&r->draw, race->end - start);
    Times times;

    times.read_begun = tick(race);
    model_expect(&r->where, "read", start, length,
                 qimg_image_read(race->model->image, start, buffer, length), 0);
    times.read_ended = tick(race);
    take_times(race, &times);
    check_bytes(&r->where, race, &times, start, start + length, buffer);
}

static void
make_change(Racer *r, Change *change, uint8_t *buffer)
{
    QimgImage *image = r->race->model->image;
    uint64_t length = change->end - change->start;
    static const char *const names[] = {"write", "zero", "discard"};
    int err;

    memset(buffer, change->value, length);
    model_trace(&r->where, names[change->kind], change->start, length);
    atomic_store(&change->begun, tick(r->race));
    if (change->kind == CHANGE_WRITE)
        err = qimg_image_write(image, change->start, buffer, length);
    else if (change->kind == CHANGE_ZERO)
        err = qimg_image_zero(image, change->start, length);
    else
        err = qimg_image_discard(image, change->start, length);
    atomic_store(&change->ended, tick(r->race));
    model_expect(&r->where, names[change->kind], change->start, length, err, 0);
}

static void *
work(void *user)
{
    Racer *r = user;
    Race *race = r->race;
    unsigned n_threads = race->model->settings->n_threads;
    g_autofree uint8_t *buffer = g_malloc(race->end - race->start);

    pthread_barrier_wait(&race->barrier);
    for (unsigned i = r->where.thread; i < race->n_changes; i += n_threads) {
        r->where.op = i;
        make_change(r, &race->changes[i], buffer);
        if (draw_chance(&r->draw, 30))
            read_some(r, buffer);
        if (draw_chance(&r->draw, 5))
            model_expect(&r->where, "flush", 0, 0, qimg_image_flush(race->model->image),
                         0);
    }
    return NULL;
}

static void
plan_changes(Race *race, Draw *draw, uint64_t n_changes)
{
    race->n_changes = (unsigned)MIN(n_changes, MAX_CHANGES);
    for (unsigned i = 0; i < race->n_changes; i++) {
        Change *change = &race->changes[i];
        uint64_t length = draw_length(draw, &race->model->places);
        uint64_t span = race->end - race->start;
        uint64_t in_region = draw_below(draw, span);

        if (draw_chance(draw, 40))
            in_region -= in_region % MIN(race->model->places.cluster_bytes, 4096);
        change->kind = draw_chance(draw, 75)   ? CHANGE_WRITE
                       : draw_chance(draw, 50) ? CHANGE_ZERO
                                               : CHANGE_DISCARD;
        if (change->kind == CHANGE_DISCARD && !race->model->discards)
            change->kind = CHANGE_ZERO;
        change->start = race->start + in_region;
        change->end = change->start + MIN(length, span - in_region);
        change->value = change->kind == CHANGE_WRITE ? (uint8_t)(i + 1) : 0;
    }
}

/* Reads the region and stores it in the model, if it is possible. */
static void
adopt(Race *race)
{
    Where where = {.model = race->model, .op = race->n_changes};
    uint64_t length = race->end - race->start;
    g_autofree uint8_t *buffer = g_malloc(length);
    Times times;

    times.read_begun = tick(race);
    model_expect(&where, "read", race->start, length,
                 qimg_image_read(race->model->image, race->start, buffer, length), 0);
    times.read_ended = tick(race);
    take_times(race, &times);
    check_bytes(&where, race, &times, race->start, race->end, buffer);
    memcpy(race->model->bytes + race->start, buffer, length);
}

void
run_overlaps(Model *model, Draw *draw, uint64_t n_ops)
{
    g_autofree Race *race = g_new0(Race, 1);
    unsigned n_threads = model->settings->n_threads;
    uint64_t size_bytes = atomic_load(&model->size_bytes);
    uint64_t span = MIN(REGION_CLUSTERS * model->places.cluster_bytes, MAX_REGION_BYTES);
    g_autofree Racer *racers = g_new0(Racer, n_threads);
    g_autofree pthread_t *threads = g_new0(pthread_t, n_threads);

    if (size_bytes == 0)
        return;
    race->model = model;
    race->clock = 1;
    race->start = draw_below(draw, size_bytes);
    race->end = MIN(race->start + span, size_bytes);
    plan_changes(race, draw, n_ops);
    pthread_barrier_init(&race->barrier, NULL, n_threads);
    for (unsigned i = 0; i < n_threads; i++) {
        racers[i] = (Racer){.race = race,
                            .where = {.model = model, .thread = i},
                            .draw = draw_new(model->settings->seed, model->phase, i + 1)};
        if (pthread_create(&threads[i], NULL, work, &racers[i]) != 0)
            model_fail(&racers[i].where, "no thread can be made");
    }
    for (unsigned i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&race->barrier);
    adopt(race);
}
