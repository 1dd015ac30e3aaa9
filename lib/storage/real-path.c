/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/real-path.h"

#include <glib.h>

char *
qimg_real_path_of(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);

    return g_file_read_link(link, NULL);
}
