/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg create: makes a new image. Each property is an option, and also an element of -o,
 * as for qemu-img. */
#include <stdio.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

static const struct {
    const char *name; /* of the option: the property's name with dashes */
    char letter;
    const char *argument; /* NULL: none */
    const char *help;
} rows[] = {
    {"format", 'f', "FORMAT", "qcow2 (the default), qed or raw"},
    {"backing-file", 'b', "FILE",
     "holds the clusters not yet written; relative to the new image's directory"},
    {"backing-fmt", 'F', "FORMAT",
     "of the backing file: qcow2, qed, qcow or raw (default: as it is found)"},
    {"cluster-size", 0, "SIZE", "512 to 2M, of QED 4K to 4M (default: 64K)"},
    {"table-size", 0, "N", "of QED: clusters of a table, 2 to 16 (default: 4)"},
    {"version", 0, "N", "of the format qcow2: 2 or 3 (the default)"},
    {"compat", 0, "VERSION", "the same: 0.10 or 1.1"},
    {"refcount-bits", 0, "N", "1 to 64 (default: 16)"},
    {"compression-type", 0, "TYPE", "zlib (the default) or zstd"},
    {"extended-l2", 0, NULL, "allocate parts of clusters"},
    {"lazy-refcounts", 0, NULL, "let writers postpone updates of refcounts"},
    {"preallocation", 0, "MODE", "off (the default), metadata, falloc or full"},
    {"data-file", 0, "FILE", "keep the data in this file, which is made, too"},
    {"data-file-raw", 0, NULL, "let the data file be a raw image always"},
    {"no-check", 'u', NULL, "store the backing file's name without opening the file"},
    {"force", 0, NULL, "replace files that exist"},
};

/* The properties on the command line. */
typedef struct {
    char *values[G_N_ELEMENTS(rows)];
    gboolean flags[G_N_ELEMENTS(rows)];
    GStrv lists;
    gboolean quiet;
} Arguments;

static void
arguments_clear(Arguments *a)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        g_free(a->values[i]);
    g_strfreev(a->lists);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Arguments, arguments_clear)

static gboolean
set_property(void *target, const char *name, const char *value, GError **error)
{
    if (g_str_has_prefix(name, "encrypt.") || g_str_has_prefix(name, "passphrase_"))
        qimg_process_hide_memory();
    return qimg_create_set(target, name, value, error);
}

/* The lists first: an option of its own takes precedence. */
static bool
set_all(QimgCreate *create, const Arguments *a, GError **error)
{
    for (char **list = a->lists; list && *list; list++)
        if (!command_line_set_list(*list, set_property, create, error))
            return false;
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name = g_strdelimit(g_strdup(rows[i].name), "-", '_');

        if ((a->values[i] || a->flags[i]) &&
            !qimg_create_set(create, name, a->values[i], error))
            return false;
    }
    return true;
}

/* Until the first call nothing has been made, so a signal may kill the process: deriving
 * a key cannot be interrupted. */
static gboolean
step(uint64_t done, uint64_t total, void *user)
{
    gboolean *has_begun = user;

    if (!*has_begun)
        interrupt_begin(NULL, NULL);
    *has_begun = TRUE;
    return progress_update(done, total, NULL);
}

static int
create_image(const CommandLine *line, const Arguments *a)
{
    g_autoptr(QimgCreate) create = qimg_create_new();
    g_autoptr(GError) error = NULL;
    const char *path = line->operands[0];
    g_autofree char *size = NULL;
    gboolean has_begun = FALSE;
    bool is_made;

    if (!set_all(create, a, &error) ||
        (line->n_operands > 1 &&
         !qimg_create_set(create, "size", line->operands[1], &error)))
        return output_failure(NULL, error);
    qimg_create_set_ask_passphrase(create, qimg_ask_new_on_terminal, NULL);
    progress_begin("making", false, a->quiet);
    is_made = qimg_create_run(create, path, step, &has_begun, &error);
    progress_end();
    interrupt_end();
    if (!is_made)
        return output_failure(path, error);
    for (const char *const *note = qimg_create_get_notes(create); *note; note++)
        fprintf(stderr, "qimg: %s: %s\n", path, *note);
    size = output_size(qimg_create_get_size_bytes(create));
    if (!a->quiet)
        printf("%s: made, %s\n", path, size);
    return EXIT_GOOD;
}

int
cmd_create(int argc, char **argv)
{
    g_auto(Arguments) a = {0};
    GOptionEntry entries[G_N_ELEMENTS(rows) + 3] = {0};
    CommandSpec spec = {
        .operands = "FILE [SIZE]",
        .summary = "Makes a new image.",
        .min_operands = 1,
        .max_operands = 2,
        .entries = entries,
    };
    CommandLine line;
    int exit_code;
    size_t n = 0;

    for (; n < G_N_ELEMENTS(rows); n++)
        entries[n] = (GOptionEntry){
            .long_name = rows[n].name,
            .short_name = rows[n].letter,
            .arg = rows[n].argument ? G_OPTION_ARG_FILENAME : G_OPTION_ARG_NONE,
            .arg_data = rows[n].argument ? (void *)&a.values[n] : &a.flags[n],
            .description = rows[n].help,
            .arg_description = rows[n].argument,
        };
    entries[n++] = (GOptionEntry){
        .long_name = "options",
        .short_name = 'o',
        .arg = G_OPTION_ARG_FILENAME_ARRAY,
        .arg_data = &a.lists,
        .description = "any of the above by its name with underscores; how to open the "
                       "backing file: backing=, backing_map=, nolock; the encryption: "
                       "encrypt.format=luks, encrypt.cipher-alg=, encrypt.ivgen-alg=, "
                       "encrypt.hash-alg=, encrypt.iter-time=, passphrase_file=, "
                       "passphrase_fd=",
        .arg_description = "NAME=VALUE,...",
    };
    entries[n++] = (GOptionEntry){
        .long_name = "quiet",
        .short_name = 'q',
        .arg = G_OPTION_ARG_NONE,
        .arg_data = &a.quiet,
        .description = "print nothing",
    };
    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    exit_code = create_image(&line, &a);
    command_line_clear(&line);
    return exit_code;
}
