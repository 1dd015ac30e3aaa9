/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg compare: whether two disks have the same content. */
#include <inttypes.h>
#include <stdio.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

#define SECTOR_BYTES 512u

typedef struct {
    char *formats[2];
    GStrv lists;
    gboolean is_strict;
    gboolean wants_progress;
    gboolean no_lock;
    gboolean quiet;
} CompareArguments;

static void
compare_arguments_clear(CompareArguments *a)
{
    g_free(a->formats[0]);
    g_free(a->formats[1]);
    g_strfreev(a->lists);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CompareArguments, compare_arguments_clear)

static QimgImage *
compare_open(const CompareArguments *a, const char *path, unsigned side)
{
    g_autoptr(QimgOptions) options =
        command_line_new_options(a->lists, a->formats[side], a->no_lock);
    g_autoptr(GError) error = NULL;
    QimgImage *image = options ? qimg_image_open(path, options, &error) : NULL;

    if (image)
        output_warnings(image);
    else if (options)
        output_failure(path, error);
    return image;
}

/* As qemu-img, the number of a difference in content is that of its sector, and other
 * sizes are mentioned if the disks are equal up to there. */
static int
print_comparison(const QimgComparison *result, uint64_t common_bytes, bool is_strict)
{
    if (result->sizes_differ && !is_strict &&
        (result->difference == QIMG_DIFFERENT_NOT ||
         result->guest_offset >= common_bytes))
        printf("Warning: Image size mismatch!\n");
    switch (result->difference) {
    case QIMG_DIFFERENT_NOT:
        printf("Images are identical.\n");
        return EXIT_GOOD;
    case QIMG_DIFFERENT_SIZE:
        printf("Strict mode: Image size mismatch!\n");
        break;
    case QIMG_DIFFERENT_ALLOCATION:
        printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n",
               result->guest_offset);
        break;
    case QIMG_DIFFERENT_CONTENT:
        printf("Content mismatch at offset %" PRIu64 "!\n",
               result->guest_offset - result->guest_offset % SECTOR_BYTES);
        break;
    }
    return EXIT_DIFFERENT;
}

static int
compare_images(const CompareArguments *a, char **paths)
{
    QimgCompareOptions options = {.struct_bytes = sizeof options,
                                  .strict = a->is_strict,
                                  .on_progress = progress_update};
    QimgComparison result = {.struct_bytes = sizeof result};
    g_autoptr(QimgImage) first = compare_open(a, paths[0], 0);
    g_autoptr(QimgImage) second = first ? compare_open(a, paths[1], 1) : NULL;
    g_autoptr(GError) error = NULL;
    bool is_done;

    if (!first || !second)
        return EXIT_NO_OPEN;
    interrupt_begin(NULL, NULL);
    progress_begin("comparing", true, a->quiet);
    is_done = qimg_compare(first, second, &options, &result, &error);
    progress_end();
    interrupt_end();
    if (!is_done) {
        output_failure(result.failed_image ? paths[result.failed_image - 1] : NULL,
                       error);
        return result.is_map_at_fault ? EXIT_BAD_MAP : EXIT_BAD_READ;
    }
    if (a->quiet)
        return result.difference == QIMG_DIFFERENT_NOT ? EXIT_GOOD : EXIT_DIFFERENT;
    return print_comparison(
        &result, MIN(qimg_image_get_size_bytes(first), qimg_image_get_size_bytes(second)),
        a->is_strict);
}

int
cmd_compare(int argc, char **argv)
{
    g_auto(CompareArguments) a = {0};
    const GOptionEntry entries[] = {
        {"strict", 's', 0, G_OPTION_ARG_NONE, &a.is_strict,
         "sizes and allocation must be equal, too", NULL},
        {"format", 'f', 0, G_OPTION_ARG_STRING, &a.formats[0],
         "of IMAGE1: qcow2, qed, qcow, luks or raw (default: probed)", "FORMAT"},
        {"second-format", 'F', 0, G_OPTION_ARG_STRING, &a.formats[1],
         "of IMAGE2, the same", "FORMAT"},
        {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &a.lists,
         "how to open both images: backing=, backing_map=, l2_cache=, data_cache=, "
         "threads=, nolock, direct, passphrase_file=, passphrase_fd=, max_iterations=; "
         "as for qcowfs",
         "NAME=VALUE,..."},
        {"force-share", 'U', 0, G_OPTION_ARG_NONE, &a.no_lock,
         "take no locks: images in use can be read", NULL},
        {"progress", 'p', 0, G_OPTION_ARG_NONE, &a.wants_progress,
         "accepted: progress is shown on a terminal", NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &a.quiet, "print nothing but errors", NULL},
        {0},
    };
    const CommandSpec spec = {
        .operands = "IMAGE1 IMAGE2",
        .summary = "Compares the content of two disks.",
        .min_operands = 2,
        .max_operands = 2,
        .entries = entries,
    };
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code == EXIT_GOOD ? EXIT_GOOD : EXIT_NO_OPEN;
    exit_code = compare_images(&a, line.operands);
    command_line_clear(&line);
    return exit_code;
}
