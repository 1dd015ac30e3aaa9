/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg snapshot: lists and changes the internal snapshots of an image. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

typedef struct {
    QimgImage *image;
    QimgSnapshots *list;
    char **names; /* the arguments after IMAGE */
    bool json;
} Snapshots;

static bool
list_all(const Snapshots *s, GError **error)
{
    json_t *all = json_array();
    unsigned n = qimg_snapshots_get_n(s->list);

    (void)error;
    for (unsigned i = 0; i < n; i++) {
        g_autofree char *text = qimg_snapshot_json(qimg_snapshots_get(s->list, i));

        json_array_append_new(all, json_loads(text, JSON_ALLOW_NUL, NULL));
    }
    if (s->json) {
        json_dumpf(all, stdout, JSON_INDENT(4));
        putchar('\n');
    } else if (n > 0) {
        output_snapshots(all, 0);
    }
    json_decref(all);
    return true;
}

static bool
create(const Snapshots *s, GError **error)
{
    return qimg_image_create_snapshot(s->image, s->names[0], progress_update, NULL,
                                      error);
}

static bool
delete_one(const Snapshots *s, GError **error)
{
    const QimgSnapshot *found = qimg_snapshots_find(s->list, s->names[0], error);

    return found && qimg_image_delete_snapshot(s->image, found->serial, progress_update,
                                               NULL, error);
}

static bool
rename_one(const Snapshots *s, GError **error)
{
    const QimgSnapshot *found = qimg_snapshots_find(s->list, s->names[0], error);

    return found &&
           qimg_image_rename_snapshot(s->image, found->serial, s->names[1], error);
}

static bool
revert(const Snapshots *s, GError **error)
{
    const QimgSnapshot *found = qimg_snapshots_find(s->list, s->names[0], error);

    return found && qimg_image_revert_to_snapshot(s->image, found->serial,
                                                  progress_update, NULL, error);
}

/* ---- differences ---- */

typedef struct {
    bool json;
    bool is_begun;
} Shown;

static gboolean
show_range(uint64_t guest_offset, uint64_t length_bytes, void *user)
{
    Shown *shown = user;

    if (shown->json)
        printf("%s\n    {\"start\": %" PRIu64 ", \"length\": %" PRIu64 "}",
               shown->is_begun ? "," : "", guest_offset, length_bytes);
    else
        printf("%-#16" PRIx64 "%#" PRIx64 "\n", guest_offset, length_bytes);
    shown->is_begun = true;
    return TRUE;
}

/* Opens the disk of the snapshot @name; NULL: the present disk. */
static QimgImage *
open_state(const Snapshots *s, const char *name, GError **error)
{
    const QimgSnapshot *found = name ? qimg_snapshots_find(s->list, name, error) : NULL;

    if (name && !found)
        return NULL;
    return name ? qimg_image_open_snapshot(s->image, found->serial, error)
                : qimg_image_open_layer(s->image, 0, error);
}

static bool
diff(const Snapshots *s, GError **error)
{
    Shown shown = {.json = s->json};
    g_autoptr(QimgImage) a = open_state(s, s->names[0], error);
    g_autoptr(QimgImage) b = a ? open_state(s, s->names[1], error) : NULL;
    bool is_good;

    if (!b)
        return false;
    if (s->json)
        putchar('[');
    else
        printf("%-16s%s\n", "Offset", "Length");
    /* On a terminal, the ranges show how far it is. */
    is_good = qimg_image_diff(a, b, show_range,
                              isatty(STDOUT_FILENO) == 1 ? NULL : progress_update, &shown,
                              error);
    if (s->json)
        printf(shown.is_begun ? "\n]\n" : "]\n");
    return is_good;
}

static const struct {
    const char *name;
    const char *operands;
    unsigned n_names; /* operands after IMAGE */
    unsigned n_more;  /* optional ones after these */
    bool writes;
    bool (*run)(const Snapshots *s, GError **error);
} verbs[] = {
    {"list", "IMAGE", 0, 0, false, list_all},
    {"create", "IMAGE NAME", 1, 0, true, create},
    {"delete", "IMAGE NAME", 1, 0, true, delete_one},
    {"rename", "IMAGE NAME NEW-NAME", 2, 0, true, rename_one},
    {"revert", "IMAGE NAME", 1, 0, true, revert},
    {"diff", "IMAGE NAME [OTHER]", 1, 1, false, diff},
};

static const CommandSpec spec = {
    .operands = "list|create|delete|rename|revert|diff IMAGE [NAME [NEW-NAME|OTHER]]",
    .summary =
        "Lists the internal snapshots of an image, takes one, deletes or renames one, or "
        "goes\nback to one: the present content of the disk is lost.\n"
        "diff lists the parts of the disk that differ between two snapshots, or between "
        "one\nand the present disk.\n\n"
        "NAME and OTHER are names of snapshots, or their IDs.",
    .min_operands = 2,
    .max_operands = 4,
    .has_output = true,
    .opens_image = true,
};

/* Opens the image and runs the verb. Flushes at the end: errors of the last writes
 * count. */
static int
snapshot_run(const CommandLine *line, size_t verb)
{
    const char *path = line->operands[1];
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = NULL;
    g_autoptr(QimgSnapshots) list = NULL;
    Snapshots s = {.names = line->operands + 2, .json = line->json};
    bool is_good;
    int err = 0;

    /* No verb moves data, so none needs the key of an encrypted image. */
    if (qimg_options_set(line->image_options, "nokey", NULL, &error) &&
        qimg_options_set(line->image_options, verbs[verb].writes ? "rw" : "inspect", NULL,
                         &error))
        s.image = image = qimg_image_open(path, line->image_options, &error);
    if (!image)
        return output_failure(path, error);
    output_warnings(image);
    s.list = list = qimg_image_get_snapshots(image);
    if (verbs[verb].writes)
        interrupt_begin(NULL, NULL);
    progress_begin("counting", false, false);
    is_good = verbs[verb].run(&s, &error);
    progress_end();
    if (verbs[verb].writes)
        interrupt_end();
    if (!is_good)
        return output_failure(path, error);
    if (verbs[verb].writes)
        err = qimg_image_flush(image);
    if (err) {
        fprintf(stderr,
                "qimg: %s: the last writes may be lost: %s (check the image "
                "and its file system)\n",
                path, g_strerror(-err));
        return EXIT_FAILED;
    }
    return EXIT_GOOD;
}

int
cmd_snapshot(int argc, char **argv)
{
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    exit_code = EXIT_FAILED;
    for (size_t i = 0; i < G_N_ELEMENTS(verbs); i++) {
        if (strcmp(line.operands[0], verbs[i].name) != 0)
            continue;
        if (line.n_operands >= 2 + verbs[i].n_names &&
            line.n_operands <= 2 + verbs[i].n_names + verbs[i].n_more)
            exit_code = snapshot_run(&line, i);
        else
            fprintf(stderr, "qimg snapshot %s: give %s (see qimg snapshot --help)\n",
                    verbs[i].name, verbs[i].operands);
        command_line_clear(&line);
        return exit_code;
    }
    fprintf(stderr,
            "qimg snapshot: %s: give list, create, delete, rename, revert or diff\n",
            line.operands[0]);
    command_line_clear(&line);
    return exit_code;
}
