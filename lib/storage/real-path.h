/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The path of the open file @fd, with all links resolved; NULL if the kernel does not
 * know it. Free with g_free. Any thread. */
char *qimg_real_path_of(int fd);
