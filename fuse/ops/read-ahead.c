/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel reads ahead without knowing where data end: on a disk with short stretches
 * of data, a long read-ahead mostly generates and copies unused zeros. */
#include "ops/read-ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "images/images-dir.h"
#include "images/images-pin.h"

/* No signal is handled meanwhile. */
#define MAX_USECS 200000

#define LONG_READ_AHEAD "1024\n" /* KiB: the largest request */

/* All disks of the mount share one setting. */
static bool
is_worth_while(const Tree *tree)
{
    gint64 late_usecs = g_get_monotonic_time() + MAX_USECS;

    if (images_get_directory(tree->images, 0))
        return true; /* as with most images: directories' images are not open yet */
    for (unsigned number = 0;
         images_next(tree->images, &number) && g_get_monotonic_time() < late_usecs;
         number++) {
        g_autoptr(ImageEntry) entry = images_pin_open(tree->images, number);

        if (entry && qimg_image_has_long_extents(entry->image))
            return true;
    }
    return false;
}

int
read_ahead_open(const char *absolute_path)
{
    g_autofree char *setting = NULL;
    struct statx status;

    /* Asks for the kernel's own knowledge of the mount: sends us no request. */
    if (statx(AT_FDCWD, absolute_path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &status) <
        0)
        return -1;
    setting = g_strdup_printf("/sys/class/bdi/%u:%u/read_ahead_kb", status.stx_dev_major,
                              status.stx_dev_minor);
    return open(setting, O_WRONLY | O_CLOEXEC);
}

void
read_ahead_raise(const Tree *tree, int setting_fd)
{
    if (setting_fd >= 0 && is_worth_while(tree) &&
        write(setting_fd, LONG_READ_AHEAD, strlen(LONG_READ_AHEAD)) < 0)
        g_debug("read_ahead_kb: %s", g_strerror(errno));
}
