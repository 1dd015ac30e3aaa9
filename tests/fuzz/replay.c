/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Runs a fuzz target over the files, and the files in the directories, given as
 * arguments: the corpus as an ordinary test, with any compiler. */
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

static unsigned n_inputs;

static void
run_path(const char *path)
{
    g_autofree char *bytes = NULL;
    g_autofree uint8_t *exact = NULL;
    gsize n_bytes = 0;
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    if (dir) {
        while ((name = g_dir_read_name(dir))) {
            g_autofree char *inner = g_build_filename(path, name, NULL);

            run_path(inner);
        }
        g_dir_close(dir);
        return;
    }
    if (!g_file_get_contents(path, &bytes, &n_bytes, NULL)) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    /* GLib adds a NUL; the target must not see it. Never NULL, as with libFuzzer. */
    exact = n_bytes > 0 ? g_memdup2(bytes, n_bytes) : g_malloc(1);
    fprintf(stderr, "%s\n", path);
    LLVMFuzzerTestOneInput(exact, n_bytes);
    n_inputs++;
}

int
main(int argc, char **argv)
{
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        run_path(argv[i]);
    fprintf(stderr, "%u inputs\n", n_inputs);
    return n_inputs == 0; /* an empty corpus tests nothing */
}
