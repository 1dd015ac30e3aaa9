/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Random writes to an image, through the library, by one or more threads, against a byte
 * array: see model.h. A seed determines the sequence of operations (of each thread); a
 * smaller number of operations is a prefix of it.
 *
 *   model-writers [OPTION...] IMAGE
 *
 * changes IMAGE. The exit status is 0 on success, 1 on a difference (with the reason on
 * standard error), 2 for wrong arguments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

#define MAX_PHASE_OPS 60u
#define SECTOR_BYTES  512u

/* Loads the model from the present image. */
static void
load(Model *model)
{
    Where where = {.model = model};
    uint64_t size_bytes = qimg_image_get_size_bytes(model->image);

    if (size_bytes > model->settings->max_bytes)
        model_fail(&where, "the disk is larger than --max-size");
    atomic_store(&model->size_bytes, size_bytes);
    if (size_bytes > 0)
        model_expect(&where, "read", 0, size_bytes,
                     qimg_image_read(model->image, 0, model->bytes, size_bytes), 0);
}

static void
resize(Model *model, Draw *draw)
{
    Where where = {.model = model};
    uint64_t old = atomic_load(&model->size_bytes);
    uint64_t max_bytes = model->settings->max_bytes;
    uint64_t cluster = model->places.cluster_bytes;
    uint64_t wanted = draw_below(draw, max_bytes + 1), new;

    switch (draw_below(draw, 5)) {
    case 0: /* a little */
        wanted = draw_chance(draw, 50)
                     ? old + draw_below(draw, 3 * cluster)
                     : old - draw_below(draw, MIN(3 * cluster, old + 1));
        break;
    case 1:
        wanted -= wanted % cluster;
        break;
    case 2:
        wanted = draw_chance(draw, 20) ? 0 : draw_below(draw, old + 1);
        break;
    default:
        break;
    }
    wanted = MIN(wanted, max_bytes - max_bytes % SECTOR_BYTES);
    if (model->settings->grows_only && old - wanted >= SECTOR_BYTES && wanted < old) {
        model_expect(&where, "resize", old, wanted,
                     qimg_image_resize(model->image, wanted, NULL, NULL), -EOPNOTSUPP);
        wanted = old;
    }
    new = (wanted + model->size_unit - 1) / model->size_unit * model->size_unit;
    model_trace(&where, "resize", old, wanted);
    if (model_is_done(&where, "resize", old, wanted,
                      qimg_image_resize(model->image, wanted, NULL, NULL))) {
        /* Also the rest of the last sector becomes zeros. */
        if (wanted < old)
            memset(model->bytes + wanted, 0, old - wanted);
    } else if (wanted < old) {
        /* The end was being cut off, or the rest of the last sector could not be zeroed:
         * it may have any content now. */
        if (qimg_image_get_size_bytes(model->image) != new)
            new = old;
        memset(model->bytes + new, 0, old - new);
        model_expect(
            &where, "read", wanted, new - wanted,
            qimg_image_read(model->image, wanted, model->bytes + wanted, new - wanted),
            0);
    } else {
        new = old;
    }
    wanted = new;
    atomic_store(&model->size_bytes, wanted);
    if (qimg_image_get_size_bytes(model->image) != wanted)
        model_fail(&where, "the disk has %" G_GUINT64_FORMAT " bytes after resize",
                   (guint64)qimg_image_get_size_bytes(model->image));
}

static void
flush(Model *model)
{
    Where where = {.model = model};

    model_trace(&where, "flush", 0, 0);
    model_expect(&where, "flush", 0, 0, qimg_image_flush(model->image), 0);
}

/* Operations for a single thread. */
static void
between_phases(Model *model, Draw *draw)
{
    Where where = {.model = model};

    if (model->settings->resizes && draw_chance(draw, 40))
        resize(model, draw);
    if (draw_chance(draw, 30))
        flush(model);
    if (draw_chance(draw, 20)) {
        model_trace(&where, "reopen", 0, 0);
        model_close(model);
        model_open(model, true);
    }
    if (draw_chance(draw, 30))
        model_compare_all(model, draw);
}

static void
dump(const Model *model)
{
    Where where = {.model = model};
    FILE *file = fopen(model->settings->dump_path, "wb");
    uint64_t size_bytes = atomic_load(&model->size_bytes);

    if (!file || fwrite(model->bytes, 1, size_bytes, file) != size_bytes ||
        fclose(file) != 0)
        model_fail(&where, "%s cannot be written", model->settings->dump_path);
}

static void
run(const Settings *settings)
{
    Model model = {.settings = settings, .discards = true, .size_unit = SECTOR_BYTES};
    bool is_raw = false, is_cow = false;
    Draw draw;

    for (char **o = settings->options; o && *o; o++) {
        is_raw |= strcmp(*o, "format=raw") == 0;
        is_cow |= g_str_has_prefix(*o, "cow"); /* the overlay's format counts */
        model.discards &= strcmp(*o, "discard=ignore") != 0;
    }
    if (is_raw && !is_cow)
        model.size_unit = 1; /* a file may have any length */
    model.bytes = g_malloc0(settings->max_bytes);
    model_open(&model, true);
    load(&model);
    for (uint64_t done = 0; done < settings->n_ops;) {
        uint64_t n_ops;

        model.phase++;
        draw = draw_new(settings->seed, model.phase, 0);
        n_ops = 1 + draw_below(&draw, MAX_PHASE_OPS * settings->n_threads);
        n_ops = MIN(n_ops, settings->n_ops - done);
        draw_places(&draw, atomic_load(&model.size_bytes),
                    qimg_image_get_cluster_bytes(model.image), &model.places);
        if (settings->overlaps)
            run_overlaps(&model, &draw, n_ops);
        else
            run_stripes(&model, &draw, n_ops);
        done += n_ops;
        between_phases(&model, &draw);
    }
    draw = draw_new(settings->seed, 0, 0);
    model_compare_all(&model, &draw);
    if (draw_chance(&draw, 50))
        flush(&model);
    model_close(&model);
    model_open(&model, false);
    model_compare_all(&model, &draw);
    model_close(&model);
    if (settings->dump_path)
        dump(&model);
    g_free(model.bytes);
}

int
main(int argc, char **argv)
{
    gint64 seed = 0, n_ops = 1000, max_bytes = 16 << 20, n_threads = 1;
    gboolean resizes = FALSE, overlaps = FALSE, checks = FALSE, traces = FALSE;
    gboolean lacks_space = FALSE, grows = FALSE;
    g_auto(GStrv) options = NULL;
    g_autofree char *dump_path = NULL;
    const GOptionEntry entries[] = {
        {"seed", 0, 0, G_OPTION_ARG_INT64, &seed, "Of all that is random", "N"},
        {"ops", 0, 0, G_OPTION_ARG_INT64, &n_ops, "How many operations", "N"},
        {"threads", 0, 0, G_OPTION_ARG_INT64, &n_threads, "How many threads", "N"},
        {"max-size", 0, 0, G_OPTION_ARG_INT64, &max_bytes, "Largest disk", "BYTES"},
        {"option", 0, 0, G_OPTION_ARG_STRING_ARRAY, &options, "As of the library",
         "NAME[=VALUE]"},
        {"resize", 0, 0, G_OPTION_ARG_NONE, &resizes, "The disk's size changes", NULL},
        {"grow", 0, 0, G_OPTION_ARG_NONE, &grows, "The disk's size only grows", NULL},
        {"overlap", 0, 0, G_OPTION_ARG_NONE, &overlaps, "Threads share bytes", NULL},
        {"check", 0, 0, G_OPTION_ARG_NONE, &checks, "qemu-img check at each close", NULL},
        {"trace", 0, 0, G_OPTION_ARG_NONE, &traces, "Print each operation", NULL},
        {"lacks-space", 0, 0, G_OPTION_ARG_NONE, &lacks_space, "ENOSPC may come", NULL},
        {"dump", 0, 0, G_OPTION_ARG_FILENAME, &dump_path, "The model, at the end",
         "FILE"},
        {NULL}};
    g_autoptr(GOptionContext) context = g_option_context_new("IMAGE");
    g_autoptr(GError) error = NULL;
    Settings settings;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc != 2 ||
        n_ops < 0 || n_threads < 1 || n_threads > 64 || max_bytes < 0) {
        fprintf(stderr, "model-writers: %s\n", error ? error->message : "wrong usage");
        return 2;
    }
    settings = (Settings){.path = argv[1],
                          .options = options,
                          .seed = (uint64_t)seed,
                          .n_ops = (uint64_t)n_ops,
                          .n_threads = (unsigned)n_threads,
                          .max_bytes = (uint64_t)max_bytes,
                          .resizes = resizes || grows,
                          .grows_only = grows,
                          .overlaps = overlaps,
                          .checks = checks,
                          .traces = traces,
                          .lacks_space = lacks_space,
                          .dump_path = dump_path};
    printf("seed %" G_GINT64_FORMAT "\n", seed);
    fflush(stdout);
    run(&settings);
    return 0;
}
