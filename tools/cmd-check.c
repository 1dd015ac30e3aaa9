/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg check: checks an image, and repairs it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

static bool
parse_repair(const char *text, QimgRepair *out)
{
    *out = QIMG_REPAIR_NONE;
    if (!text)
        return true;
    if (strcmp(text, "leaks") == 0)
        *out = QIMG_REPAIR_LEAKS;
    else if (strcmp(text, "all") == 0)
        *out = QIMG_REPAIR_ALL;
    else
        fprintf(stderr, "qimg: -r %s: give leaks or all\n", text);
    return *out != QIMG_REPAIR_NONE;
}

static void
print_findings(const QimgCheckResult *r)
{
    static const char *const kinds[] = {
        [QIMG_FINDING_CORRUPTION] = "corrupt",
        [QIMG_FINDING_LEAK] = "leaked",
        [QIMG_FINDING_ERROR] = "error",
    };

    for (unsigned i = 0; i < r->n_findings; i++) {
        const QimgFinding *f = qimg_check_result_get_finding(r, i);

        printf("%-8s host offset %#" PRIx64, kinds[f->kind], f->host_offset);
        if (f->length_bytes > 0)
            printf(" to %#" PRIx64, f->host_offset + f->length_bytes);
        if (f->guest_offset != UINT64_MAX)
            printf(", disk offset %#" PRIx64, f->guest_offset);
        printf(": %s\n", f->text);
    }
    if (r->n_all_findings > r->n_findings)
        printf("... and %" PRIu64 " more\n", r->n_all_findings - r->n_findings);
}

static const char *
plural_end(uint64_t n)
{
    return n == 1 ? "" : "s";
}

static void
print_verdict(const QimgCheckResult *r)
{
    if (r->n_corruptions_fixed > 0 || r->n_leaks_fixed > 0)
        printf("Repaired: %" PRIu64 " corruption%s, %" PRIu64 " leaked cluster%s.\n",
               r->n_corruptions_fixed, plural_end(r->n_corruptions_fixed),
               r->n_leaks_fixed, plural_end(r->n_leaks_fixed));
    if (r->n_check_errors > 0)
        printf("%" PRIu64 " place%s could not be checked.\n", r->n_check_errors,
               plural_end(r->n_check_errors));
    if (r->n_corruptions > 0)
        printf("%" PRIu64 " corruption%s: data may be damaged, and writing to the image "
               "may damage more.\n",
               r->n_corruptions, plural_end(r->n_corruptions));
    if (r->n_leaks > 0)
        printf("%" PRIu64 " leaked cluster%s: space is wasted, and nothing worse.\n",
               r->n_leaks, plural_end(r->n_leaks));
    if (r->n_check_errors == 0 && r->n_corruptions == 0 && r->n_leaks == 0)
        puts("The image is sound.");
    if (r->is_dirty)
        puts("It is marked as not closed properly.");
    if (r->is_marked_corrupt)
        puts("It is marked as corrupt.");
}

static void
check_print_human(const QimgCheckResult *r)
{
    double n = (double)r->n_allocated_clusters;

    print_findings(r);
    print_verdict(r);
    if (r->n_total_clusters > 0)
        printf("%" PRIu64 " of %" PRIu64 " clusters are allocated (%.2f %%)",
               r->n_allocated_clusters, r->n_total_clusters,
               n * 100 / (double)r->n_total_clusters);
    if (r->n_total_clusters > 0 && r->n_allocated_clusters > 0)
        printf(", %.2f %% of these are fragmented, %.2f %% compressed",
               (double)r->n_fragmented_clusters * 100 / n,
               (double)r->n_compressed_clusters * 100 / n);
    if (r->n_total_clusters > 0)
        puts(".");
    printf("The image ends at %" PRIu64 ".\n", r->image_end_offset);
}

/* The remaining findings decide, as in qemu-img. */
static int
exit_code_of(const QimgCheckResult *r)
{
    if (r->n_check_errors > 0)
        return EXIT_FAILED;
    if (r->n_corruptions > 0)
        return EXIT_CORRUPT;
    return r->n_leaks > 0 ? EXIT_LEAKS : EXIT_GOOD;
}

static int
check_run(const CommandLine *line, QimgRepair repair, bool is_quiet)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgCheckResult) result = NULL;
    g_autofree char *json = NULL;

    interrupt_begin(NULL, NULL);
    progress_begin("checking", false, is_quiet);
    result = qimg_check(line->operands[0], line->image_options, repair, progress_update,
                        NULL, &error);
    progress_end();
    interrupt_end();
    if (!result) {
        output_failure(line->operands[0], error);
        return g_error_matches(error, QIMG_ERROR, QIMG_ERROR_NO_CHECK) ? EXIT_NO_CHECK
                                                                       : EXIT_FAILED;
    }
    if (line->json) {
        json = qimg_check_result_json(result);
        fputs(json, stdout);
    } else if (!is_quiet) {
        check_print_human(result);
    }
    return exit_code_of(result);
}

int
cmd_check(int argc, char **argv)
{
    g_autofree char *repair_text = NULL;
    gboolean is_quiet = FALSE;
    const GOptionEntry entries[] = {
        {"repair", 'r', 0, G_OPTION_ARG_STRING, &repair_text,
         "leaks: free unused clusters; all: make every possible repair", "WHAT"},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &is_quiet,
         "print nothing but errors; the exit status tells", NULL},
        {0},
    };
    const CommandSpec spec = {
        .operands = "IMAGE",
        .summary =
            "Checks whether an image is sound: 0 it is, 1 it could not be checked,\n"
            "2 it is corrupt, 3 clusters are leaked, 63 nothing can be checked.\n"
            "With -r repairs it and reports the remaining problems.",
        .min_operands = 1,
        .max_operands = 1,
        .has_output = true,
        .opens_image = true,
        .entries = entries,
    };
    CommandLine line;
    QimgRepair repair;
    int exit_code = EXIT_FAILED;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    exit_code = EXIT_FAILED;
    if (parse_repair(repair_text, &repair))
        exit_code = check_run(&line, repair, is_quiet);
    command_line_clear(&line);
    return exit_code;
}
