/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The model as a whole: open, close, compare, fail. */
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMPARE_BYTES (1024 * 1024u)

void
model_fail(const Where *where, const char *text, ...)
{
    const Model *model = where->model;
    g_autofree char *message = NULL;
    va_list args;

    va_start(args, text);
    message = g_strdup_vprintf(text, args);
    va_end(args);
    flockfile(stderr);
    fprintf(stderr,
            "FAILED: seed %" G_GUINT64_FORMAT " phase %" G_GUINT64_FORMAT
            " thread %u operation %" G_GUINT64_FORMAT ": %s\n",
            (guint64)model->settings->seed, (guint64)model->phase, where->thread,
            (guint64)where->op, message);
    fflush(stderr);
    _exit(1); /* other threads are still running */
}

void
model_trace(const Where *where, const char *name, uint64_t start, uint64_t length)
{
    if (where->model->settings->traces)
        fprintf(stderr,
                "%" G_GUINT64_FORMAT ".%u.%" G_GUINT64_FORMAT " %s %#" G_GINT64_MODIFIER
                "x +%#" G_GINT64_MODIFIER "x\n",
                (guint64)where->model->phase, where->thread, (guint64)where->op, name,
                (guint64)start, (guint64)length);
}

void
model_expect(const Where *where, const char *name, uint64_t start, uint64_t length,
             int err, int expected)
{
    if (err != expected)
        model_fail(where,
                   "%s of %" G_GUINT64_FORMAT " bytes at %#" G_GINT64_MODIFIER
                   "x answers %d (%s), expected %d",
                   name, (guint64)length, (guint64)start, err, g_strerror(-err),
                   expected);
}

bool
model_is_done(const Where *where, const char *name, uint64_t start, uint64_t length,
              int err)
{
    if (err == -ENOSPC && where->model->settings->lacks_space)
        return false;
    model_expect(where, name, start, length, err, 0);
    return true;
}

void
model_adopt(Model *model, const Where *where, uint64_t start, uint64_t length,
            const uint8_t *wanted)
{
    g_autofree uint8_t *found = g_malloc(length + 1);

    model_trace(where, "no space for", start, length);
    model_expect(where, "read", start, length,
                 qimg_image_read(model->image, start, found, length), 0);
    for (uint64_t i = 0; i < length; i++) {
        uint8_t value = wanted ? wanted[i] : 0;

        if (found[i] != value && found[i] != model->bytes[start + i])
            model_fail(where,
                       "a change of %" G_GUINT64_FORMAT " bytes at %#" G_GINT64_MODIFIER
                       "x failed; at %#" G_GINT64_MODIFIER
                       "x there was %02x, it wanted %02x, found %02x",
                       (guint64)length, (guint64)start, (guint64)(start + i),
                       model->bytes[start + i], value, found[i]);
        model->bytes[start + i] = found[i];
    }
}

void
model_compare(const Where *where, const char *name, uint64_t start, uint64_t length,
              const uint8_t *found)
{
    const uint8_t *expected = where->model->bytes + start;
    uint64_t at = 0;
    uint64_t n_wrong = 0;

    if (memcmp(found, expected, length) == 0)
        return;
    while (found[at] == expected[at])
        at++;
    for (uint64_t i = at; i < length; i++)
        n_wrong += found[i] != expected[i];
    model_fail(where,
               "%s of %" G_GUINT64_FORMAT " bytes at %#" G_GINT64_MODIFIER
               "x: first difference at %#" G_GINT64_MODIFIER
               "x, expected %02x, found %02x; %" G_GUINT64_FORMAT " bytes are wrong",
               name, (guint64)length, (guint64)start, (guint64)(start + at), expected[at],
               found[at], (guint64)n_wrong);
}

static QimgOptions *
make_options(const Where *where, bool is_writable)
{
    QimgOptions *options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    bool is_cow = false;

    for (char **o = where->model->settings->options; o && *o; o++) {
        g_auto(GStrv) pair = g_strsplit(*o, "=", 2);

        if (!qimg_options_set(options, pair[0], pair[1], &error))
            model_fail(where, "option %s: %s", *o, error->message);
        is_cow |= strcmp(pair[0], "cow") == 0;
    }
    if (is_writable && !is_cow && !qimg_options_set(options, "rw", NULL, &error))
        model_fail(where, "option rw: %s", error->message);
    return options;
}

void
model_open(Model *model, bool is_writable)
{
    Where where = {.model = model};
    g_autoptr(QimgOptions) options = make_options(&where, is_writable);
    g_autoptr(GError) error = NULL;

    model->image = qimg_image_open(model->settings->path, options, &error);
    if (!model->image)
        model_fail(&where, "open: %s", error->message);
    if (is_writable && !qimg_image_is_writable(model->image))
        model_fail(&where, "open: the image is not writable");
}

static void
run_check(const Where *where)
{
    const char *argv[] = {"qemu-img", "check", where->model->settings->path, NULL};
    g_autofree char *output = NULL;
    g_autofree char *errors = NULL;
    int status = 0;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &output,
                      &errors, &status, NULL))
        model_fail(where, "qemu-img check cannot be run");
    /* A leak (3) may remain after lack of space. */
    if (status != 0 && !(where->model->settings->lacks_space && WIFEXITED(status) &&
                         WEXITSTATUS(status) == 3))
        model_fail(where, "qemu-img check after close: %s%s", output, errors);
}

void
model_close(Model *model)
{
    Where where = {.model = model};

    qimg_image_close(model->image);
    model->image = NULL;
    if (model->settings->checks)
        run_check(&where);
}

void
model_grow(Model *model, uint64_t end)
{
    uint64_t old = atomic_load(&model->size_bytes);

    if (end <= old)
        return;
    end = (end + model->size_unit - 1) / model->size_unit * model->size_unit;
    while (old < end && !atomic_compare_exchange_weak(&model->size_bytes, &old, end))
        ;
}

/* The extents must follow each other to the end, and holes must be zeros. */
static void
walk_map(const Where *where, uint64_t size_bytes)
{
    const Model *model = where->model;

    for (uint64_t at = 0; at < size_bytes;) {
        QimgExtent e = {.struct_bytes = sizeof e};
        int err = qimg_image_map(model->image, at, &e);

        model_expect(where, "map", at, 1, err, 0);
        if (e.guest_offset != at || e.length_bytes == 0 ||
            e.length_bytes > size_bytes - at || e.kind == QIMG_EXTENT_DAMAGED)
            model_fail(where,
                       "map at %#" G_GINT64_MODIFIER "x: kind %d, %" G_GUINT64_FORMAT
                       " bytes at %#" G_GINT64_MODIFIER "x%s%s",
                       (guint64)at, e.kind, (guint64)e.length_bytes,
                       (guint64)e.guest_offset, e.reason ? ": " : "",
                       e.reason ? e.reason : "");
        for (uint64_t i = 0; e.kind <= QIMG_EXTENT_ZERO && i < e.length_bytes; i++)
            if (model->bytes[at + i] != 0)
                model_fail(where,
                           "map at %#" G_GINT64_MODIFIER "x: a hole of %" G_GUINT64_FORMAT
                           " bytes, but the disk holds %02x at %#" G_GINT64_MODIFIER "x",
                           (guint64)at, (guint64)e.length_bytes, model->bytes[at + i],
                           (guint64)(at + i));
        at += e.length_bytes;
    }
}

void
model_compare_all(Model *model, Draw *draw)
{
    Where where = {.model = model};
    g_autofree uint8_t *buffer = g_malloc(COMPARE_BYTES);
    uint64_t size_bytes = atomic_load(&model->size_bytes);
    uint64_t found = qimg_image_get_size_bytes(model->image);

    if (found != size_bytes)
        model_fail(&where,
                   "the disk has %" G_GUINT64_FORMAT
                   " bytes, expected %" G_GUINT64_FORMAT,
                   (guint64)found, (guint64)size_bytes);
    for (uint64_t at = 0; at < size_bytes;) {
        uint64_t n_bytes = 1 + draw_below(draw, COMPARE_BYTES);

        n_bytes = MIN(n_bytes, size_bytes - at);
        model_expect(&where, "compare", at, n_bytes,
                     qimg_image_read(model->image, at, buffer, n_bytes), 0);
        model_compare(&where, "compare", at, n_bytes, buffer);
        at += n_bytes;
    }
    walk_map(&where, size_bytes);
}
