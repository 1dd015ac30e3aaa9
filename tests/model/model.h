/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A writable image beside a byte array with the expected content of its disk.
 *
 * The run is cut into phases. Inside a phase threads work on the image at once, each
 * changing only bytes of the model that no other thread touches; between two phases one
 * thread is alone, and may resize, reopen and compare everything. Bytes of the model past
 * the disk's end are always zeros, as a growing disk must show. */
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
    uint64_t max_bytes; /* maximal size of the disk */
    bool resizes;       /* resizes occasionally */
    bool grows_only;    /* without shrinking */
    bool overlaps;      /* threads write to the same bytes */
    bool checks;        /* runs qemu-img check after each close */
    bool traces;        /* prints every operation */
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
    bool discards;               /* const: the expected effect of qimg_image_discard */
    uint64_t size_unit;          /* const: the disk's size is a multiple of it */
} Model;

/* The source of a message: the thread's number and that of its operation in the phase. */
typedef struct {
    const Model *model;
    unsigned thread;
    uint64_t op;
} Where;

/* Ends the program with status 1 and a line with the fault and its place. */
void model_fail(const Where *where, const char *text, ...)
    G_GNUC_PRINTF(2, 3) G_GNUC_NORETURN;

/* Prints an operation, if requested. */
void model_trace(const Where *where, const char *name, uint64_t start, uint64_t length);

/* Fails unless @err is @expected (0 or negative), naming the call. */
void model_expect(const Where *where, const char *name, uint64_t start, uint64_t length,
                  int err, int expected);

/* Whether a change was made: @err is 0. -ENOSPC means that it was not, if the settings
 * permit that; any other error fails. */
bool model_is_done(const Where *where, const char *name, uint64_t start, uint64_t length,
                   int err);

/* After a change that found no space: each of @length bytes at @start must be as before
 * or as in @wanted (NULL: zeros); the model takes the present bytes. */
void model_adopt(Model *model, const Where *where, uint64_t start, uint64_t length,
                 const uint8_t *wanted);

/* Fails at the first of @length bytes at @start that differs from the model's. */
void model_compare(const Where *where, const char *name, uint64_t start, uint64_t length,
                   const uint8_t *found);

/* Opens the image as the settings say, or for reading; fails on an error. */
void model_open(Model *model, bool is_writable);
void model_close(Model *model);

/* Compares the size, every byte, and the holes of the map. Between phases. */
void model_compare_all(Model *model, Draw *draw);

/* Notes that the disk reaches at least to @end, rounded up to the unit. */
void model_grow(Model *model, uint64_t end);

/* stripes.c: a phase of @n_ops operations by all threads, each on its own bytes. */
void run_stripes(Model *model, Draw *draw, uint64_t n_ops);

/* overlaps.c: a phase in which the threads write to the same few clusters; afterwards the
 * model takes the found bytes, if they are possible. */
void run_overlaps(Model *model, Draw *draw, uint64_t n_ops);
