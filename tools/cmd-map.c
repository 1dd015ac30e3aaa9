/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg map: shows where each part of the disk lies. */
#include <inttypes.h>
#include <stdio.h>

#include "command-line.h"
#include "output.h"

static void
map_print_json(const QimgExtent *extent, bool is_first, bool is_last)
{
    char text[QIMG_EXTENT_JSON_BYTES];

    qimg_extent_to_json(extent, text);
    printf("%s%s%s", is_first ? "[" : "", text, is_last ? "]\n" : ",\n");
}

/* As qemu-img: shows stored parts, no holes; encrypted, compressed and damaged parts are
 * marked, since they have no plain location in a file. */
static void
map_print_human(const QimgExtent *extent)
{
    if (extent->kind == QIMG_EXTENT_DATA && !extent->host_path) {
        printf("%#-16" PRIx64 "%#-16" PRIx64 "%-16s\n", extent->guest_offset,
               extent->length_bytes, "encrypted");
    } else if (extent->kind == QIMG_EXTENT_DATA) {
        g_autofree char *path = output_printable(extent->host_path);

        printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", extent->guest_offset,
               extent->length_bytes, extent->host_offset, path);
    } else if (extent->kind == QIMG_EXTENT_COMPRESSED) {
        printf("%#-16" PRIx64 "%#-16" PRIx64 "%-16s\n", extent->guest_offset,
               extent->length_bytes, "compressed");
    } else if (extent->kind == QIMG_EXTENT_DAMAGED) {
        printf("%#-16" PRIx64 "%#-16" PRIx64 "%-16s%s\n", extent->guest_offset,
               extent->length_bytes, "damaged", extent->reason);
    }
}

static int
print_map(QimgImage *image, const CommandLine *line)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(image);
    uint64_t guest_offset = 0;

    if (!line->json)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    else if (size_bytes == 0)
        printf("[]\n");
    while (guest_offset < size_bytes) {
        QimgExtent extent = {.struct_bytes = sizeof extent};
        int err = qimg_image_map(image, guest_offset, &extent);

        if (err) {
            fprintf(stderr, "qimg: %s: cannot map offset %" PRIu64 ": %s\n",
                    line->operands[0], guest_offset, g_strerror(-err));
            return EXIT_FAILED;
        }
        guest_offset += extent.length_bytes;
        if (line->json)
            map_print_json(&extent, extent.guest_offset == 0, guest_offset >= size_bytes);
        else
            map_print_human(&extent);
    }
    return EXIT_GOOD;
}

static const CommandSpec spec = {
    .operands = "IMAGE",
    .summary = "Shows where each part of the disk is stored.",
    .min_operands = 1,
    .max_operands = 1,
    .has_output = true,
    .opens_image = true,
};

int
cmd_map(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = NULL;
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    /* Stored parts can be shown even if files below are missing. */
    if (qimg_options_set(line.image_options, "inspect", NULL, &error))
        image = qimg_image_open(line.operands[0], line.image_options, &error);
    if (image) {
        output_warnings(image);
        exit_code = print_map(image, &line);
    } else {
        exit_code = output_failure(line.operands[0], error);
    }
    command_line_clear(&line);
    return exit_code;
}
