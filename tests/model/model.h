/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A writable image beside a byte array that says what its disk must hold.
 *
 * The run is cut into phases. Inside a phase threads work on the image at once, each
 * changing only bytes of the model that no other one touches; between two phases one
 * thread is alone, and may resize, reopen and compare everything. Bytes of the model past
 * the disk's end are always zeros, as what a growing disk shows must be. */
#pragma once

#include <stdatomic.h>

#include "draw.h"
#include "qimg.h"

typedef struct {
    const char *path;
    char **options; /* NAME or NAME=VALUE */
    uint64_t seed;
    uint64_t n_ops; /* of all threads together */
    unsigned n_threads;
    uint64_t max_bytes; /* how large the disk may become */
    bool resizes;       /* it is resized now and then */
    bool grows_only;    /* and cannot become smaller */
    bool overlaps;      /* threads write to the same bytes */
    bool checks;        /* qemu-img check is run after each close */
    bool traces;        /* every operation is printed */
    bool lacks_space;   /* changes may fail with -ENOSPC */
    const char *dump_path;
} Settings;

typedef struct {
    const Settings *settings;
    QimgImage *image;            /* changed between phases only */
    uint8_t *bytes;              /* max_bytes */
    _Atomic uint64_t size_bytes; /* atomic: grows while threads work */
    uint64_t phase;              /* changed between phases only */
    DrawPlaces places;           /* likewise */
    bool discards;               /* const: what qimg_image_discard is expected to do */
    uint64_t size_unit;          /* const: the disk's size is a multiple of it */
} Model;

/* Who speaks: the thread's number and that of its operation in the phase. */
typedef struct {
    const Model *model;
    unsigned thread;
    uint64_t op;
} Where;

/* Ends the program with status 1 and a line that says what went wrong where. */
void model_fail(const Where *where, const char *text, ...)
    G_GNUC_PRINTF(2, 3) G_GNUC_NORETURN;

/* Prints an operation, where that was asked for. */
void model_trace(const Where *where, const char *name, uint64_t start, uint64_t length);

/* Fails unless @err is @expected (0 or negative), naming the call. */
void model_expect(const Where *where, const char *name, uint64_t start, uint64_t length,
                  int err, int expected);

/* Whether a change was done: @err is 0. -ENOSPC says that it was not, where the settings
 * allow that; anything else fails. */
bool model_is_done(const Where *where, const char *name, uint64_t start, uint64_t length,
                   int err);

/* After a change that found no space: each of @length bytes at @start must be as before
 * or as in @wanted (NULL: zeros); the model takes over what is there. */
void model_adopt(Model *model, const Where *where, uint64_t start, uint64_t length,
                 const uint8_t *wanted);

/* Fails at the first of @length bytes at @start that is not the model's. */
void model_compare(const Where *where, const char *name, uint64_t start, uint64_t length,
                   const uint8_t *found);

/* Opens the image as the settings say, or for reading; fails where it cannot. */
void model_open(Model *model, bool is_writable);
void model_close(Model *model);

/* Compares the size, every byte, and what the map says of holes. Between phases. */
void model_compare_all(Model *model, Draw *draw);

/* Notes that the disk reaches at least to @end, rounded up to the unit. */
void model_grow(Model *model, uint64_t end);

/* stripes.c: a phase of @n_ops operations by all threads, each on bytes of its own. */
void run_stripes(Model *model, Draw *draw, uint64_t n_ops);

/* overlaps.c: a phase in which the threads write to the same few clusters; afterwards the
 * model holds what was found there, if that may be. */
void run_overlaps(Model *model, Draw *draw, uint64_t n_ops);
