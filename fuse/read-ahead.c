/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel reads ahead without knowing where data end: on a disk with short stretches
 * of data a long read-ahead is mostly zeros, made and copied for nobody (a sparse copy of
 * 512 KiB stretches takes 1.5 times as long). So a few places of the disks are looked at
 * before it is raised. */
#include "read-ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define READ_AHEAD_KIB   "1024\n"
#define N_SAMPLES        32u
#define SAMPLE_BYTES     (UINT64_C(4) << 20)
#define MAX_SAMPLE_USECS 50000

/* The number of bytes with data in the sample at @offset, looking until @deadline_usecs.
 */
static uint64_t
count_data(QimgImage *image, uint64_t offset, gint64 deadline_usecs)
{
    uint64_t n_data_bytes = 0;
    uint64_t end = MIN(offset + SAMPLE_BYTES, qimg_image_get_size_bytes(image));

    while (offset < end && g_get_monotonic_time() < deadline_usecs) {
        QimgExtent extent;

        if (qimg_image_map(image, offset, end - offset, &extent) != 0)
            break;
        if (extent.kind == QIMG_EXTENT_DATA || extent.kind == QIMG_EXTENT_COMPRESSED)
            n_data_bytes += extent.length_bytes;
        offset += extent.length_bytes;
    }
    return n_data_bytes;
}

/* Whether most of the places that hold data at all are full of it. */
static bool
data_is_in_long_stretches(const Tree *tree)
{
    gint64 deadline_usecs = g_get_monotonic_time() + MAX_SAMPLE_USECS;
    unsigned n_full = 0, n_with_data = 0;

    for (unsigned i = 0; i < N_SAMPLES; i++) {
        QimgImage *image = tree->images[i % tree->n_images].image;
        uint64_t size_bytes = qimg_image_get_size_bytes(image);
        uint64_t offset = size_bytes / N_SAMPLES * i;
        uint64_t sample_bytes = MIN(SAMPLE_BYTES, size_bytes - offset);
        uint64_t n_data_bytes = count_data(image, offset, deadline_usecs);

        n_with_data += n_data_bytes > 0;
        n_full += n_data_bytes > sample_bytes / 4 * 3;
    }
    return n_full * 2 > n_with_data;
}

void
read_ahead_raise(const Tree *tree, const char *absolute_path)
{
    g_autofree char *setting = NULL;
    struct stat status;
    int fd;

    /* This returns when the kernel has our answer to its first request, after which it
     * changes the setting no more. */
    if (stat(absolute_path, &status) < 0)
        return;
    setting = g_strdup_printf("/sys/class/bdi/%u:%u/read_ahead_kb", major(status.st_dev),
                              minor(status.st_dev));
    fd = open(setting, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (data_is_in_long_stretches(tree) &&
        write(fd, READ_AHEAD_KIB, strlen(READ_AHEAD_KIB)) < 0)
        g_debug("%s: %s", setting, g_strerror(errno));
    close(fd);
}
