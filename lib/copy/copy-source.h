/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source of a copy: its description, and whether it has changed. */
#pragma once

#include <jansson.h>

#include "qimg.h"

/* Device, inode, size and times as text: equal texts mean the same, unchanged file. Free
 * with g_free. */
char *copy_stamp_of(const struct stat *status);

typedef enum {
    COPY_UNCHANGED,
    COPY_TOUCHED, /* only its status: owner, mode, links, or content and mtime */
    COPY_CHANGED,
} CopyChange;

/* Whether a file of @image's chain has changed since the open; *@path_out (borrowed) is
 * then its path. */
CopyChange copy_find_change(const QimgImage *image, const char **path_out);

/* Describes the source: its name and size, and the files of @image's chain with size and
 * stamp. Free with json_decref. */
json_t *copy_source_describe(const QimgImage *image, const char *source_name);

/* The difference between two such descriptions of the source, then and now; free with
 * g_free. NULL: none. A file of which only the status has changed sets
 * *@is_touched_out. */
char *copy_source_find_difference(const json_t *then, const json_t *now,
                                  bool *is_touched_out);
