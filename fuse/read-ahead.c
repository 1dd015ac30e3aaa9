/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel reads ahead without knowing where data end: on a disk with short stretches
 * of data a long read-ahead is mostly zeros, made and copied for nobody. */
#include "read-ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "mountpoint.h"

#define LONG_READ_AHEAD "1024\n" /* KiB: the largest request */

/* There is one setting for all disks of the mount. */
static bool
is_worth_while(const Tree *tree)
{
    for (unsigned i = 0; i < tree->n_images; i++)
        if (qimg_image_has_long_extents(tree->images[i].image))
            return true;
    return false;
}

void
read_ahead_raise(const Tree *tree, const char *absolute_path)
{
    g_autofree char *device = mountpoint_get_device(absolute_path);
    g_autofree char *setting = NULL;
    int fd;

    if (!device)
        return;
    setting = g_strdup_printf("/sys/class/bdi/%s/read_ahead_kb", device);
    fd = open(setting, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (is_worth_while(tree) && write(fd, LONG_READ_AHEAD, strlen(LONG_READ_AHEAD)) < 0)
        g_debug("%s: %s", setting, g_strerror(errno));
    close(fd);
}
